package stage

import "testing"

// Reasons that differ in addresses, hosts, ids and numbers alone are one.
func TestMaskReason(t *testing.T) {
	for _, tt := range []struct{ want, a, b string }{
		{"connect to *: Connection timed out",
			"connect to mx1.far.test[192.0.2.99]:25: Connection timed out\n", "connect to mail.near.test[2001:db8::7]:25: Connection timed out"},
		{"host * said: 450 4.2.1 <*>: Recipient address rejected: Greylisted for * seconds (in reply to RCPT TO command)",
			"host mx.far.test[192.0.2.9] said: 450 4.2.1 <ana@far.test>: Recipient address rejected: Greylisted for 300 seconds (in reply to RCPT TO command)",
			"host mx2.far.test[192.0.2.10] said: 450 4.2.1 <bob@far.test>: Recipient address rejected: Greylisted for 17 seconds (in reply to RCPT TO command)"},
		{"host * said: 421-4.7.28 our system has seen an unusual rate of mail from your address *. See https://help.example/?p=* - mailer * (in reply to end of DATA command)",
			"host mx.example[192.0.2.1] said: 421-4.7.28 our system has seen an unusual rate of mail from your address [192.0.2.7      18]. See https://help.example/?p=RateLimit - mailer a640c23a62f3a-b6f (in reply to end of DATA command)",
			"host mx.example[192.0.2.2] said: 421-4.7.28 our system has seen an unusual rate of mail from your address [198.51.100.3      19]. See https://help.example/?p=Other - mailer x13-2002c5f (in reply to end of DATA command)"},
		{"Host or domain name not found. Name service error for name=* type=*: Host not found, try again",
			"Host or domain name not found. Name service error for name=far.test type=MX: Host not found, try again",
			"Host or domain name not found. Name service error for name=near.test type=MX: Host not found, try again"},
		{"lost connection with * while receiving the initial server greeting",
			"lost connection with a.test[192.0.2.1] while receiving the initial server greeting", "lost connection with b.test[192.0.2.2] while receiving the initial server greeting"},
		{"blocked using zen.blocklist.test; *", "blocked using zen.blocklist.test; 192.0.2.1", "blocked using zen.blocklist.test; 192.0.2.2 192.0.2.3"},
		{"", " \n", "\t"},
		{"(), :", "(), :", "(),   :"},
	} {
		for _, text := range []string{tt.a, tt.b} {
			if got := maskReason(text); got != tt.want {
				t.Errorf("%s\n got %s\nwant %s", text, got, tt.want)
			}
		}
	}
	for _, different := range []string{"host mx.far.test[192.0.2.9] said: 451 4.3.0 try again", "host mx.far.test[192.0.2.9] said: 450 4.3.0 try again", "host mx.far.test[192.0.2.9] said: 450 4.7.1 try again"} {
		if got := maskReason(different); got == "host * said: 450 4.3.0 try again" != (different == "host mx.far.test[192.0.2.9] said: 450 4.3.0 try again") {
			t.Errorf("%s is taken for %s", different, got)
		}
	}
}
