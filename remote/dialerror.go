package remote

import (
	"strings"

	"spoolsweep/remote/clean"
)

// Kind says at which point a host could not be reached.
type Kind string

const (
	KindName       Kind = "name"        // its name has no address
	KindConnect    Kind = "connect"     // no TCP connection
	KindHandshake  Kind = "handshake"   // connected, but no SSH
	KindUnknownKey Kind = "unknown-key" // its key stands in no known_hosts file
	KindChangedKey Kind = "changed-key" // another key stands there, or the key is revoked
	KindAuth       Kind = "auth"        // it took none of our keys
)

// DialError says why there is no connection to a host, and what to do.
type DialError struct {
	Host    string // the inventory's name
	Jump    string // the jump host on its way that is the cause, "" for the host itself
	Address string // host:port that was dialled
	Kind    Kind
	Err     error // may quote the server: show it through package clean
	Remedy  string

	// Of the key the server showed, for KindUnknownKey and KindChangedKey.
	KeyType     string // such as ssh-ed25519
	Fingerprint string // SHA256:...
	KnownAt     string // file:line that says otherwise, for KindChangedKey
}

// Message says what happened, without the remedy, on one line that is safe to show.
func (e *DialError) Message() string {
	where := clean.Text(e.Host, 200)
	if e.Jump != "" {
		where += ": jump host " + clean.Text(e.Jump, 200)
	}
	if e.Address != "" && e.Address != e.Host {
		where += " (" + clean.Text(e.Address, 200) + ")"
	}
	var what string
	switch e.Kind {
	case KindName:
		what = "name not found"
	case KindConnect:
		what = "no connection"
	case KindHandshake:
		what = "ssh handshake"
	case KindUnknownKey:
		what = "unknown host key " + e.KeyType + " " + e.Fingerprint
	case KindChangedKey:
		what = "HOST KEY CHANGED, it is now " + e.KeyType + " " + e.Fingerprint
	case KindAuth:
		what = "not let in"
	default:
		what = string(e.Kind)
	}
	if e.Err != nil {
		what += ": " + clean.Text(strings.TrimPrefix(e.Err.Error(), "ssh: "), 1000)
	}
	return where + ": " + what
}

func (e *DialError) Error() string {
	if e.Remedy == "" {
		return e.Message()
	}
	return e.Message() + "; " + e.Remedy
}

func (e *DialError) Unwrap() error { return e.Err }
