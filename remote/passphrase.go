package remote

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"
)

// errStillLocked ends a login in the middle: a key was to be used, and nobody
// gave its passphrase.
var errStillLocked = errors.New("its passphrase was not given")

// passphraseTries is OpenSSH's NumberOfPasswordPrompts.
const passphraseTries = 3

// lock is an encrypted key file. It is opened once, for all hosts.
type lock struct {
	mu     sync.Mutex // guards what follows; held while somebody types
	signer ssh.Signer
	err    error // it stays locked
}

// lockedKey is a key whose public half is known. Servers are asked whether they
// take it before its passphrase is asked for.
type lockedKey struct {
	public   ssh.PublicKey
	open     func() (ssh.Signer, error)
	patience *patience
}

// lockedKey returns a signer for an encrypted key file, nil where it cannot be
// opened: nobody can be asked, or was and did not answer.
func (d *Dialer) lockedKey(ctx context.Context, id *identity, p *patience) ssh.Signer {
	if d.Passphrase == nil || id.public == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.locked[id.file]
	if l == nil {
		l = &lock{}
		if d.locked == nil {
			d.locked = map[string]*lock{}
		}
		d.locked[id.file] = l
	}
	if l.mu.TryLock() {
		defer l.mu.Unlock()
		if l.err != nil {
			id.why = fmt.Sprintf("%s: %v", id.file, l.err)
			return nil
		}
	}
	return &lockedKey{public: id.public, patience: p, open: func() (ssh.Signer, error) { return d.open(ctx, l, id) }}
}

// open asks for the passphrase where that was not done yet.
func (d *Dialer) open(ctx context.Context, l *lock, id *identity) (ssh.Signer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signer != nil || l.err != nil {
		return l.signer, l.err
	}
	d.asking.Lock()
	defer d.asking.Unlock()
	for try := range passphraseTries {
		words, err := d.Passphrase(ctx, id.file, try > 0)
		if err != nil {
			l.err = fmt.Errorf("key %s has a passphrase: %w: %w", id.file, errStillLocked, err)
			return nil, l.err
		}
		l.signer, err = ssh.ParsePrivateKeyWithPassphrase(id.locked, []byte(words))
		if err == nil {
			return l.signer, nil
		}
		if !errors.Is(err, x509.IncorrectPasswordError) {
			l.err = fmt.Errorf("key %s: %w: %w", id.file, errStillLocked, err)
			return nil, l.err
		}
	}
	l.err = fmt.Errorf("key %s has a passphrase: %w: wrong %d times", id.file, errStillLocked, passphraseTries)
	return nil, l.err
}

// PublicKey is known without the passphrase.
func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

// Sign opens the key.
func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm opens the key; an RSA one has several algorithms.
func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	var signer ssh.Signer
	k.patience.during(func() { signer, err = k.open() })
	if err != nil {
		return nil, err
	}
	if with, ok := signer.(ssh.AlgorithmSigner); ok && algorithm != "" {
		return with.SignWithAlgorithm(rand, data, algorithm)
	}
	return signer.Sign(rand, data)
}
