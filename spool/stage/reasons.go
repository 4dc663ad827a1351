package stage

import (
	"slices"
	"strings"

	"spoolsweep/spool"
)

// maxLog bounds what is read of a log: that of thousands of recipients says the
// same again and again.
const maxLog = 64 << 10

// reasonsOf are the different ones for which a message of dir is deferred, as its
// log has them. A message without one, of a queue manager that just tries it again,
// has none.
func reasonsOf(p *spool.Postfix, dir, id string, buf []byte) (all []string) {
	log := string(spool.Defer) + strings.TrimPrefix(dir, string(spool.Deferred))
	_ = spool.OpenLog(p, log, id, func(f *spool.MailFile, _ spool.Stat) error {
		n, _ := f.ReadAt(buf, 0) // what there is of it
		for _, line := range strings.Split(string(buf[:n]), "\n") {
			if text, ok := strings.CutPrefix(line, "reason="); ok {
				if reason := maskReason(text); !slices.Contains(all, reason) {
					all = append(all, reason)
				}
			}
		}
		return nil
	})
	return all
}

// maskReason has a * for what differs from one message and server to the next:
// addresses, hosts with their addresses, ids and numbers, but for the codes of a reply.
func maskReason(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		core := strings.Trim(word, `()<>:;,."'`)
		if !strings.ContainsAny(core, "@[=0123456789") || replyCode(core) {
			continue
		}
		masked := "*"
		if name, _, ok := strings.Cut(core, "="); ok && !strings.ContainsAny(name, "@[0123456789") {
			masked = name + "=*" // what is named stays
		}
		words[i] = strings.Replace(word, core, masked, 1)
	}
	text = strings.Join(words, " ")
	for strings.Contains(text, "* *") {
		text = strings.ReplaceAll(text, "* *", "*")
	}
	return text
}

// replyCode says whether a word is one: 450, 4.7.1 or 450-4.7.1.
func replyCode(word string) bool {
	return (word[0] == '4' || word[0] == '5') && strings.Trim(word, "0123456789.-") == "" && (len(word) == 3 || strings.Count(word, ".") == 2)
}
