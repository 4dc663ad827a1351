package strict

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseJSON(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "f:1: not valid JSON: unexpected EOF"},
		{"{\n\"a\": 1,\n\"a\": 2}", `f:3: key "a" is given twice, first in line 2`},
		{"{\n\"a\": tru}", `f:2: not valid JSON: invalid character '}' in literal true (expecting 'e')`},
		{"{}\n{}", "f:2: not valid JSON: something stands after the document"},
		{"[1,\n99999999999999999999]", "f:2: 99999999999999999999: number does not fit into 64 bits"},
		{"{\"a\":\n[1", "f:2: not valid JSON: unexpected EOF"},
	} {
		if _, err := ParseJSON("f", []byte(tt.text)); err == nil || err.Error() != tt.want {
			t.Errorf("%q\ngot  %v\nwant %s", tt.text, err, tt.want)
		}
	}
	v, err := ParseJSON("f", []byte("{\n \"a\": [1e3, 2, \"\\ud83d\\ude00\", null],\n \"b\": true}"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": []any{1000.0, int64(2), "😀", nil}, "b": true}
	if diff := cmp.Diff(want, v.Plain()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if line := v.Get("b").Line; line != 3 {
		t.Errorf("b stands in line %d, want 3", line)
	}
}

// FuzzParseJSON holds that what is read says what encoding/json reads.
func FuzzParseJSON(f *testing.F) {
	for _, seed := range []string{`{"a": [1, -2.5e3, "x", null, true]}`, `[{}]`, `"a"`, `{"a":1}{}`, "[1,\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseJSON("f", []byte(text))
		if err != nil {
			return
		}
		var want, got any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("read, and encoding/json says %v", err)
		}
		again, err := json.Marshal(v.Plain())
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
