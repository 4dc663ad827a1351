package inventory

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// vaultHead begins every text that ansible-vault encrypted.
const vaultHead = "$ANSIBLE_VAULT;"

// errNoVaultPassword is what is said where a password is needed.
var errNoVaultPassword = errors.New("encrypted by ansible-vault (give --vault-password-file FILE or --ask-vault-pass)")

func isVault(data []byte) bool { return bytes.HasPrefix(data, []byte(vaultHead)) }

// vault decrypts, with passwords that are asked for when the first is needed. No
// error of its repeats what it read or made.
type vault struct {
	passwords func() ([]string, error)

	asked bool
	given []string
	err   error
	done  map[string]string // the texts by their cipher texts: a group's value is that of many hosts
}

func (v *vault) decrypt(text string) (string, error) {
	if plain, ok := v.done[text]; ok {
		return plain, nil
	}
	if v.passwords == nil {
		return "", errNoVaultPassword
	}
	sealed, err := readVault(text)
	if err != nil {
		return "", err
	}
	if !v.asked {
		v.asked = true
		v.given, v.err = v.passwords()
	}
	if v.err != nil {
		return "", v.err
	}
	for _, password := range v.given {
		plain, ok, err := sealed.open(password)
		if err != nil {
			return "", err
		}
		if ok {
			if v.done == nil {
				v.done = make(map[string]string)
			}
			v.done[text] = plain
			return plain, nil
		}
	}
	if len(v.given) > 1 {
		return "", fmt.Errorf("none of the %d vault passwords is that of this value", len(v.given))
	}
	return "", errors.New("the vault password is not that of this value")
}

// sealed is what stands in a vault (ansible/parsing/vault: VaultAES256).
type sealed struct{ salt, mac, cipher []byte }

// readVault takes apart a text of format 1.1, or 1.2, whose head has a label.
func readVault(text string) (*sealed, error) {
	head, body, _ := strings.Cut(strings.TrimSpace(text), "\n")
	fields := strings.Split(strings.TrimSpace(head), ";")
	switch {
	case fields[0]+";" != vaultHead || len(fields) < 3:
		return nil, errors.New("not a text of ansible-vault: its first line is $ANSIBLE_VAULT;1.1;AES256, or 1.2 with a label behind it")
	case fields[1] != "1.1" && fields[1] != "1.2":
		return nil, fmt.Errorf("format %q of ansible-vault is not known (1.1 and 1.2 are)", fields[1])
	case fields[2] != "AES256":
		return nil, fmt.Errorf("cipher %q of ansible-vault is not known (AES256 is)", fields[2])
	}
	inner, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		return nil, errors.New("a vault whose text is damaged: not hexadecimal")
	}
	parts := strings.Split(string(inner), "\n")
	if len(parts) != 3 {
		return nil, errors.New("a vault whose text is damaged: a part is missing")
	}
	var s sealed
	for i, part := range []*[]byte{&s.salt, &s.mac, &s.cipher} {
		if *part, err = hex.DecodeString(parts[i]); err != nil {
			return nil, errors.New("a vault whose text is damaged: not hexadecimal")
		}
	}
	if len(s.cipher) == 0 || len(s.cipher)%aes.BlockSize != 0 {
		return nil, errors.New("a vault whose text is damaged: it ends too early")
	}
	return &s, nil
}

// open returns the text, and whether the password was the right one.
func (s *sealed) open(password string) (text string, ok bool, err error) {
	const rounds, keyLength = 10_000, 32
	keys, err := pbkdf2.Key(sha256.New, password, s.salt, rounds, 2*keyLength+aes.BlockSize)
	if err != nil {
		return "", false, fmt.Errorf("the key of a vault: %w", err)
	}
	mac := hmac.New(sha256.New, keys[keyLength:2*keyLength])
	mac.Write(s.cipher)
	if !hmac.Equal(mac.Sum(nil), s.mac) {
		return "", false, nil
	}
	b, err := aes.NewCipher(keys[:keyLength])
	if err != nil {
		return "", false, err
	}
	plain := make([]byte, len(s.cipher))
	cipher.NewCTR(b, keys[2*keyLength:]).XORKeyStream(plain, s.cipher)
	pad := int(plain[len(plain)-1]) // PKCS #7
	if pad < 1 || pad > aes.BlockSize {
		return "", false, errors.New("a vault whose text is damaged: its padding is wrong")
	}
	plain = plain[:len(plain)-pad]
	if !utf8.Valid(plain) {
		return "", false, errors.New("a vault with a text that is not UTF-8")
	}
	return string(plain), true, nil
}
