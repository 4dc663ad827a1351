package sshtest

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/ssh"
)

// packets cuts one way of a connection into what its reader takes whole or not at
// all: the line with the version, then the packets (RFC 4253, 4.2 and 6). Behind
// NEWKEYS their ends are still to be seen, since nothing but AES-GCM is offered,
// which leaves the length in clear (RFC 5647, 7.3).
type packets struct {
	rest    []byte // what has come and was not taken
	greeted bool
	sealed  bool
}

// ciphers are those whose packets can be told apart.
var ciphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}

const (
	lengthSize  = 4
	typeAt      = lengthSize + 1 // behind the padding's length
	newKeys     = 21
	tagSize     = 16
	packetMost  = 256 << 10 // x/crypto's own limit
	versionMost = 255
)

var errOutOfStep = errors.New("ssh test server: that is no packet")

// next takes the first of them that has come whole, nil if none has.
func (p *packets) next() ([]byte, error) {
	size := 0
	switch {
	case !p.greeted:
		size = bytes.IndexByte(p.rest, '\n') + 1
		if size == 0 && len(p.rest) > versionMost {
			return nil, errOutOfStep
		}
		p.greeted = size > 0 && bytes.HasPrefix(p.rest, []byte("SSH-"))
	case len(p.rest) >= lengthSize:
		length := binary.BigEndian.Uint32(p.rest)
		if length == 0 || length > packetMost {
			return nil, errOutOfStep
		}
		size = lengthSize + int(length)
		if p.sealed {
			size += tagSize
		}
		if size > len(p.rest) {
			return nil, nil
		}
		p.sealed = p.sealed || size > typeAt && p.rest[typeAt] == newKeys
	}
	if size == 0 {
		return nil, nil
	}
	packet := p.rest[:size:size]
	p.rest = p.rest[size:]
	return packet, nil
}
