package push

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// packed is the folder of the agents in a release, beside this file in the source;
// noColon stands for one, which no embedded file may have in its name.
const packed, noColon = "bin", "="

// Pack builds the agent for arch from the module in root and leaves it in folder,
// compressed. It returns the file's name, and the path in the module at which a
// build with the tag "dist" takes it in. The bytes are the same whenever and
// wherever it is done.
func Pack(ctx context.Context, root, arch, folder string) (file, place string, err error) {
	plain := filepath.Join(folder, arch)
	a, err := build(ctx, root, arch, plain)
	if err != nil {
		return "", "", err
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return "", "", err
	}
	_, err = w.Write(a.data)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", "", err
	}
	name := strings.ReplaceAll(arch+"-"+a.checksum()+"-"+a.SHA256+".gz", ":", noColon)
	file = filepath.Join(folder, name)
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		return "", "", err
	}
	return file, path.Join("remote/push", packed, name), os.Remove(plain)
}

// Packed are the SHA-256 of the agents that this program carries, by architecture.
// There are none but in a release.
func Packed() map[string]string {
	hashes := map[string]string{}
	for arch, file := range carried() {
		_, hashes[arch] = sumsPacked(file)
	}
	return hashes
}

// sumsPacked is sumsInName of a file in a release.
func sumsPacked(file string) (checksum, hash string) {
	return sumsInName(strings.ReplaceAll(strings.TrimSuffix(file, ".gz"), noColon, ":"))
}

// carried are the files of the agents in this program, by architecture.
func carried() map[string]string {
	files := map[string]string{}
	entries, _ := dist.ReadDir(packed) // one that carries none has no such folder
	for _, e := range entries {
		arch, _, _ := strings.Cut(e.Name(), "-")
		files[arch] = e.Name()
	}
	return files
}

// unpack is the agent for arch that this program carries, nil for none.
func unpack(arch string) (*Agent, error) {
	file, ok := carried()[arch]
	if !ok {
		return nil, nil
	}
	f, err := dist.Open(path.Join(packed, file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var data []byte
	r, err := gzip.NewReader(f)
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(r, maxAgent))
	}
	sum := sha256.Sum256(data)
	a := &Agent{Arch: arch, SHA256: hex.EncodeToString(sum[:]), data: data}
	if _, hash := sumsPacked(file); err == nil && a.SHA256 != hash {
		err = errors.New("it is not what it is named")
	}
	if err != nil {
		return nil, fmt.Errorf("the agent for %s in this program: %w: get the release again", arch, err)
	}
	return a, nil
}
