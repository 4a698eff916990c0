package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

// dryRun prints what a copy would do.
func (a *app) dryRun(cmd *cobra.Command, src, dst manifest.Ref, c copyFlags) (err error) {
	o, err := c.options(dst)
	if err != nil {
		return err
	}
	env, done, err := a.env(nil, src, dst)
	if err != nil {
		return err
	}
	defer closing(&err, done)
	if err := a.trust(env, c.trust, src); err != nil {
		return err
	}
	plan, err := copy.DryRun(cmd.Context(), env, src, dst, o)
	if err != nil {
		return err
	}
	if c.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(plan)
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), plan)
	return err
}
