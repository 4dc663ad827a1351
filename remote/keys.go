package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// offer is one key to log in with, and how to name it in a message.
type offer struct {
	ssh.Signer
	name string
}

// identity is a key file: what is known of it without its passphrase, too.
type identity struct {
	file   string
	public ssh.PublicKey    // nil if there is none to read
	cert   *ssh.Certificate // from FILE-cert.pub, or nil
	signer ssh.Signer       // nil where it can only be used through the agent
	why    string           // where signer is nil: what to say
	locked []byte           // the file, where it has a passphrase
}

// offers returns the keys to try, in ssh's order: what the agent holds of the
// key files named, what else it holds (not with IdentitiesOnly), then the files
// themselves. Servers count each one that fails, usually to six. Files that
// were named, but cannot be used, are warnings.
func (d *Dialer) offers(ctx context.Context, s settings, p *patience) ([]offer, []string) {
	var out []offer
	var warnings []string
	held, err := d.agentKeys(s.IdentityAgent)
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("ssh agent: %v", err))
	}
	certs, bad := readCertificates(s.CertificateFiles)
	warnings = append(warnings, bad...)
	certified := func(signer ssh.Signer, beside *ssh.Certificate, name string) []offer {
		if len(s.CertificateFiles) > 0 {
			beside = nil // so says ssh_config(5)
		}
		return withCertificate(signer, append(certs.of(signer.PublicKey()), beside), name)
	}
	taken := make([]bool, len(held))
	var files []offer
	for i, file := range s.IdentityFiles {
		id, err := readIdentity(file)
		if err != nil {
			if i < s.Named || !errors.Is(err, os.ErrNotExist) {
				warnings = append(warnings, fmt.Sprintf("key %v", err))
			}
			continue
		}
		found := false
		for n, h := range held {
			if taken[n] || id.public == nil || !sameKey(h.PublicKey(), id.public) {
				continue
			}
			taken[n], found = true, true
			out = append(out, certified(h, id.cert, file+" from the agent")...)
		}
		if !found && id.signer == nil && id.locked != nil {
			id.signer = d.lockedKey(ctx, id, p)
		}
		switch {
		case found:
		case id.signer != nil:
			files = append(files, certified(id.signer, id.cert, file)...)
		default:
			warnings = append(warnings, "key "+id.why)
		}
	}
	for i, h := range held {
		if taken[i] {
			continue
		}
		offers := certified(h, nil, "agent key "+ssh.FingerprintSHA256(h.PublicKey()))
		if s.IdentitiesOnly {
			offers = offers[:len(offers)-1] // a CertificateFile names it, or nobody
		}
		out = append(out, offers...)
	}
	return append(out, files...), append(warnings, certs.unused()...)
}

// certificate is one of a CertificateFile.
type certificate struct {
	*ssh.Certificate
	file string
	used bool
}

type certificates []*certificate

func readCertificates(files []string) (certs certificates, warnings []string) {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("certificate %v", err))
			continue
		}
		k, _, _, _, err := ssh.ParseAuthorizedKey(text)
		cert, ok := k.(*ssh.Certificate)
		if err != nil || !ok || cert.CertType != ssh.UserCert {
			warnings = append(warnings, fmt.Sprintf("certificate %s: it is no user's certificate", file))
			continue
		}
		certs = append(certs, &certificate{Certificate: cert, file: file})
	}
	return certs, warnings
}

// of returns those of a key.
func (c certificates) of(key ssh.PublicKey) []*ssh.Certificate {
	var out []*ssh.Certificate
	for _, cert := range c {
		if sameKey(key, cert.Key) {
			cert.used = true
			out = append(out, cert.Certificate)
		}
	}
	return out
}

func (c certificates) unused() []string {
	var out []string
	for _, cert := range c {
		if !cert.used {
			out = append(out, fmt.Sprintf("certificate %s: neither a key file nor the ssh agent has its key %s", cert.file, ssh.FingerprintSHA256(cert.Key)))
		}
	}
	return out
}

// sameKey compares keys; a certificate counts as the key it certifies.
func sameKey(a, b ssh.PublicKey) bool {
	if cert, ok := a.(*ssh.Certificate); ok {
		a = cert.Key
	}
	return bytes.Equal(a.Marshal(), b.Marshal())
}

// withCertificate offers the certificates before the bare key: servers that know
// only the authority would count the other way round as a failure.
func withCertificate(s ssh.Signer, certs []*ssh.Certificate, name string) []offer {
	var out []offer
	for _, cert := range certs {
		if cert == nil {
			continue
		}
		if c, err := ssh.NewCertSigner(cert, s); err == nil {
			out = append(out, offer{c, name + " with its certificate"})
		}
	}
	return append(out, offer{s, name})
}

// readIdentity reads FILE, FILE.pub and FILE-cert.pub. An encrypted key is no
// error, as the agent may hold it.
func readIdentity(file string) (*identity, error) {
	id := &identity{file: file}
	if text, err := os.ReadFile(file + ".pub"); err == nil {
		id.public, _, _, _, _ = ssh.ParseAuthorizedKey(text)
	}
	if text, err := os.ReadFile(file + "-cert.pub"); err == nil {
		if k, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
			id.cert, _ = k.(*ssh.Certificate)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		// The private half may live only in the agent or a token.
		if id.public != nil {
			id.why = fmt.Sprintf("%v, and the ssh agent does not hold it", err)
			return id, nil
		}
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		id.signer, id.public = signer, signer.PublicKey()
	case errors.As(err, &missing):
		id.locked = text
		if missing.PublicKey != nil {
			id.public = missing.PublicKey
		}
		id.why = fmt.Sprintf("%s has a passphrase and is not in the ssh agent, skipped: ssh-add %s", file, quote(file))
	default:
		// IdentityFile may name the public half: that picks one of the agent's keys.
		if public, _, _, _, perr := ssh.ParseAuthorizedKey(text); perr == nil {
			id.public = public
			id.why = fmt.Sprintf("%s is a public key, and the ssh agent does not hold its other half", file)
			break
		}
		id.why = fmt.Sprintf("%s: %v; if it lives on a security token: ssh-add %s", file, err, quote(file))
	}
	return id, nil
}

// agentLink is the connection to one ssh agent, shared by all hosts: a thousand
// connections at once would overrun the agent's queue.
type agentLink struct {
	net.Conn
	client agent.ExtendedAgent
}

// keys lists the keys. An agent that does not answer is left, or every host
// would wait for it.
func (a *agentLink) keys(limit time.Duration) ([]ssh.Signer, error) {
	defer time.AfterFunc(limit, func() { a.Close() }).Stop()
	return a.client.Signers()
}

// agentKeys lists what the agent holds. Socket "" is that of SSH_AUTH_SOCK,
// "none" means no agent; where nothing is set there are simply no keys.
func (d *Dialer) agentKeys(socket string) ([]ssh.Signer, error) {
	if socket == "" {
		socket = os.Getenv("SSH_AUTH_SOCK")
	}
	if socket == "" || socket == "none" {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.agents[socket]; a != nil {
		keys, err := a.keys(d.timeout())
		if err == nil {
			return keys, nil
		}
		// The agent may have been started anew since.
		a.Close()
		delete(d.agents, socket)
	}
	conn, err := net.DialTimeout("unix", socket, d.timeout())
	if err != nil {
		return nil, err
	}
	a := &agentLink{conn, agent.NewClient(conn)}
	keys, err := a.keys(d.timeout())
	if err != nil {
		conn.Close()
		return nil, err
	}
	if d.agents == nil {
		d.agents = map[string]*agentLink{}
	}
	d.agents[socket] = a
	return keys, nil
}
