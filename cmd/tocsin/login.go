package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/copy/registry"
)

const dockerHub = "docker.io"

// maxSecret bounds what is read as a password, in bytes.
const maxSecret = 64 << 10

func newLogin(a *app) *cobra.Command {
	var user, file string
	var stdin bool
	cmd := &cobra.Command{
		Use: "login [REGISTRY]", Short: "Check credentials for a registry and keep them", Args: cobra.MaximumNArgs(1),
		Long: "Check a user and password with a registry (docker.io if none is named) and keep them where docker does: in its config.json,\n" +
			"or with the credential helper that is named there. REGISTRY_AUTH_FILE and DOCKER_CONFIG name other files.",
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := registryHost(args)
			if err != nil {
				return err
			}
			if file == "" {
				file = authFiles()[0]
			}
			user, password, err := askCredentials(cmd.Context(), cmd.InOrStdin(), user, stdin)
			if err != nil {
				return err
			}
			client, err := a.loggedIn(user, password)
			if err != nil {
				return err
			}
			if err := client.Ping(cmd.Context(), host); err != nil {
				return fmt.Errorf("log in to %s as %s: %w", host, user, err)
			}
			if err := registry.StoreLogin(file, host, user, password); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "logged in to %s as %s; kept as %s says\n", host, user, file)
			return nil
		},
	}
	cmd.Flags().StringVarP(&user, "username", "u", "", "the user")
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().StringVar(&file, "authfile", "", "keep them in this file")
	return cmd
}

func newLogout(*app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "logout [REGISTRY]", Short: "Forget the credentials for a registry", Args: cobra.MaximumNArgs(1),
		Long: "Forget the credentials for a registry (docker.io if none is named) in every file, and with every credential helper, that\n" +
			"tocsin reads credentials from.",
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := registryHost(args)
			if err != nil {
				return err
			}
			files := authFiles()
			if file != "" {
				files = []string{file}
			}
			found, err := registry.RemoveLogin(files, host)
			if err == nil && !found {
				err = fmt.Errorf("not logged in to %s: %w", host, copy.ErrNotFound)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "logged out of", host)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "authfile", "", "forget them in this file alone")
	return cmd
}

// registryHost is the registry that a command line names. People paste addresses.
func registryHost(args []string) (string, error) {
	if len(args) == 0 {
		return dockerHub, nil
	}
	host := strings.TrimPrefix(strings.TrimPrefix(args[0], "https://"), "http://")
	host = strings.TrimSuffix(strings.TrimSuffix(host, "/"), "/v1")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return dockerHub, nil
	}
	if host == "" || strings.Contains(host, "/") {
		return "", usage(fmt.Errorf("%q is no registry's host; credentials are kept for whole registries", args[0]))
	}
	return host, nil
}

// loggedIn is a client that answers every registry's question with these credentials. It is used for one host.
func (a *app) loggedIn(user, password string) (*registry.Client, error) {
	o := a.registryOptions()
	err := a.access.apply(o)
	o.AuthFiles = nil
	o.Credentials = func(string) (string, string, error) { return user, password, nil }
	return registry.New(o), err
}

// askCredentials takes what the command line does not say from a terminal; a password never stands on a command line.
func askCredentials(ctx context.Context, in io.Reader, user string, stdin bool) (string, string, error) {
	if stdin {
		if user == "" {
			return "", "", usage(errors.New("--password-stdin needs --username"))
		}
		raw, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
		if err != nil {
			return "", "", fmt.Errorf("read the password: %w", err)
		}
		password := strings.TrimRight(string(raw), "\r\n")
		if password == "" || len(raw) > maxSecret {
			return "", "", usage(fmt.Errorf("standard input holds no password, or one of more than %d bytes", maxSecret))
		}
		return user, password, nil
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", "", usage(errors.New("standard input is no terminal; use --username with --password-stdin"))
	}
	state, err := term.GetState(fd)
	if err != nil {
		return "", "", err
	}
	// An interrupt while the password is typed must not leave the terminal without echo; it also ends the read.
	defer context.AfterFunc(ctx, func() { _ = term.Restore(fd, state); os.Exit(exitInterrupt) })()
	if user == "" {
		fmt.Fprint(os.Stderr, "Username: ")
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, maxSecret)).ReadString('\n')
		if err != nil {
			return "", "", fmt.Errorf("read the user: %w", err)
		}
		user = strings.TrimSpace(line)
	}
	fmt.Fprint(os.Stderr, "Password: ")
	secret, err := term.ReadPassword(fd)
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return "", "", fmt.Errorf("read the password: %w", err)
	}
	return user, string(secret), nil
}
