package show

import (
	"strings"
	"testing"
)

func TestMask(t *testing.T) {
	for _, row := range [][2]string{
		{"", ""},
		{"nothing at 14:03:21 of 1.5 MB", "nothing at 14:03:21 of 1.5 MB"},
		{"by ops@laptop", "by ops@laptop"},
		{"<ana@x.test> to <bob@y.test>, ANA@z.test", "<name-1@x.test> to <name-2@y.test>, name-1@z.test"},
		{"sasl_user:ana@*", "sasl_user:name-1@*"},
		{"sasl_user:ana", "sasl_user:name-1"},
		{"sender:@x.test, sender:<>, recipient:*@x.test", "sender:@x.test, sender:<>, recipient:*@x.test"},
		{"any(sender:bob@, client:192.0.2.0/24)", "any(sender:name-1@, client:client-1)"},
		{"client:mail.far.test", "client:client-1"},
		{"from 192.0.2.7, 2001:db8::7.", "from client-1, client-2."},
		{"from 192.0.2.7:2525 and [2001:db8::7]:25", "from client-1:2525 and [client-2]:25"},
		{"user root2 is not there, root23 is.", "user name-1 is not there, root23 is."},
		{"7 messages sent with login ana, from 3 addresses", "7 messages sent with login name-1, from 3 addresses"},
		{"body:/a@b/", "body:/name-1@b/"},
	} {
		k := newMask(true)
		k.keep, k.logins = []string{"ops@laptop"}, []string{"root2"}
		if got := k.text(row[0]); got != row[1] {
			t.Errorf("%q: got %q, want %q", row[0], got, row[1])
		}
	}
	off := newMask(false)
	if got := off.text("ana@x.test") + off.address("ana@x.test") + off.client("192.0.2.1") + off.login("ana"); got != "ana@x.testana@x.test192.0.2.1ana" {
		t.Errorf("not masked: %q", got)
	}
}

// What is masked names nobody: no address is left in it, and to mask it again finds
// nothing more.
func FuzzMask(f *testing.F) {
	for _, s := range []string{"", "sasl_user:ana@*", "<ana@x.test> to <bob@y.test>", "any(sender:bob@, client:192.0.2.0/24)", "with login ana@b@c", "1@1.1.1.1", "2001:db8::1, ::ffff:192.0.2.1.", "client:client-1", "root2@root2", evil} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k := newMask(true)
		k.logins = []string{"root2"}
		once := k.text(s)
		if again := k.text(once); again != once {
			t.Errorf("%q: masked %q, and once more %q", s, once, again)
		}
		for _, a := range addressForm.FindAllString(once, -1) {
			if local, _, _ := strings.Cut(a, "@"); !k.made[local] && strings.Trim(local, "*") != "" {
				t.Errorf("%q: %q is left in %q", s, a, once)
			}
		}
	})
}
