// Bare dials hosts side by side, runs true on each and leaves: the least that a
// program over x/crypto can do.
//
//	bare KEY KNOWN_HOSTS ADDRESS...
package main

import (
	"log"
	"os"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		log.Fatal(err)
	}
	known, err := knownhosts.New(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	config := &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: known, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}
	var all sync.WaitGroup
	for _, address := range os.Args[3:] {
		all.Go(func() {
			c, err := ssh.Dial("tcp", address, config)
			if err != nil {
				log.Fatal(err)
			}
			defer c.Close()
			s, err := c.NewSession()
			if err != nil {
				log.Fatal(err)
			}
			if err := s.Run("true"); err != nil {
				log.Fatal(err)
			}
		})
	}
	all.Wait()
}
