package main

import (
	"errors"
	"strconv"

	"github.com/spf13/pflag"
)

// skopeoFlags are spellings of skopeo's for what has another one here.
type skopeoFlags struct {
	compressFormat string
	compressLevel  int
}

func (s *skopeoFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&s.compressFormat, "dest-compress-format", "", "skopeo's spelling of --compress; layers that are compressed otherwise are encoded anew too")
	f.IntVar(&s.compressLevel, "dest-compress-level", 0, "skopeo's spelling of the level in --compress")
}

// compression is what --compress says, whichever way it was spelled.
func (s skopeoFlags) compression(compress string) (string, error) {
	switch {
	case s.compressFormat == "" && s.compressLevel != 0:
		return "", usage(errors.New("--dest-compress-level needs --dest-compress-format"))
	case s.compressFormat == "":
		return compress, nil
	case compress != "":
		return "", usage(errors.New("--compress and --dest-compress-format say the same; give one of them"))
	case s.compressLevel == 0:
		return s.compressFormat, nil
	}
	return s.compressFormat + ":" + strconv.Itoa(s.compressLevel), nil
}
