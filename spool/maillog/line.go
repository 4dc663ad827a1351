package maillog

import (
	"bytes"
	"time"
)

// parser takes lines of one log apart.
type parser struct {
	// written is when the log was last written to: a stamp without a year is of
	// the year that does not put it behind that.
	written time.Time
	zone    *time.Location

	stamp [stampLength]byte // the last one without a year, and what it means
	at    time.Time

	before []byte // what stood last between stamp and service: "mx1 postfix/"
}

// stampLength is that of "Nov 23 17:19:14".
const stampLength = 15

// head takes off what syslog puts before a text: the stamp, the host, and the
// program with its process. Of the program the last element is returned:
// postfix-out/submission/smtpd is smtpd.
func (p *parser) head(line []byte) (stamp, service, text []byte, ok bool) {
	stamp, line, full := cutStamp(line)
	if !full {
		if n := len(p.before); n > 0 && bytes.HasPrefix(line, p.before) {
			if service, text, ok = behind(line[n:]); ok {
				return stamp, service, text, true
			}
		}
		var at int
		if service, text, at, ok = usual(line); ok {
			p.before = append(p.before[:0], line[:at]...)
			return stamp, service, text, true
		}
	}
	service, text, ok = rare(line, full)
	return stamp, service, text, ok
}

// behind takes apart what stands behind "mx1 postfix/": "smtp[3168]: ".
func behind(b []byte) (service, text []byte, ok bool) {
	i, begin := 0, 0
	for ; i < len(b) && b[i] != '['; i++ {
		switch b[i] {
		case '/':
			begin = i + 1
		case ' ':
			return nil, nil, false
		}
	}
	at := i + 1
	for at < len(b) && b[at] >= '0' && b[at] <= '9' {
		at++
	}
	if at == i+1 || len(b) < at+3 || b[at] != ']' || b[at+1] != ':' || b[at+2] != ' ' {
		return nil, nil, false
	}
	return b[begin:i], b[at+3:], true
}

// rare takes apart what stands behind any stamp.
func rare(line []byte, full bool) (service, text []byte, ok bool) {
	if full {
		return head5424(line)
	}
	tag, text := word(line)
	if len(tag) > 0 && tag[len(tag)-1] != ':' { // the host; a datagram has none
		tag, text = word(text)
	}
	if len(tag) == 0 || tag[len(tag)-1] != ':' {
		return nil, nil, false
	}
	tag = tag[:len(tag)-1]
	if open := bytes.IndexByte(tag, '['); open >= 0 {
		if tag[len(tag)-1] != ']' || !digits(tag[open+1:len(tag)-1]) {
			return nil, nil, false
		}
		tag = tag[:open]
	}
	service, ok = serviceOf(tag)
	return service, text, ok
}

// usual takes apart what stands behind nearly every stamp, "mx1 postfix/smtp[3168]: ",
// with few looks at it; at is where the service begins. What it does not know is
// left to rare.
func usual(line []byte) (service, text []byte, at int, ok bool) {
	host, tag := word(line)
	open := bytes.IndexByte(tag, '[')
	if open < 0 || len(host) == 0 || host[len(host)-1] == ':' || bytes.IndexByte(host, '[') >= 0 {
		return nil, nil, 0, false
	}
	slash := bytes.LastIndexByte(tag[:open], '/')
	if slash < 1 {
		return nil, nil, 0, false
	}
	service, text, ok = behind(tag[slash+1:])
	return service, text, len(host) + 1 + slash + 1, ok && bytes.IndexByte(tag[:slash], ' ') < 0
}

// cutStamp takes off the stamp, "Nov 23 17:19:14 " or RFC 3339, and what RFC 5424
// and raw datagrams have before it; full says that it is RFC 5424.
func cutStamp(line []byte) (stamp, rest []byte, full bool) {
	if len(line) > 0 && line[0] == '<' { // the priority
		end := bytes.IndexByte(line, '>')
		if end < 2 || end > 4 || !digits(line[1:end]) {
			return nil, nil, false
		}
		line = line[end+1:]
	}
	if line, full = bytes.CutPrefix(line, []byte("1 ")); full { // version 1
		stamp, rest = word(line)
		return stamp, rest, true
	}
	if len(line) > 0 && line[0] >= '0' && line[0] <= '9' {
		stamp, rest = word(line)
		return stamp, rest, false
	}
	if len(line) <= stampLength || line[stampLength] != ' ' {
		return nil, nil, false
	}
	return line[:stampLength], line[stampLength+1:], false
}

// head5424 takes off host, program, process, message id and structured data.
func head5424(line []byte) (service, text []byte, ok bool) {
	_, line = word(line)
	tag, line := word(line)
	_, line = word(line)
	_, line = word(line)
	if bytes.HasPrefix(line, []byte("- ")) {
		line = line[2:]
	} else if line, ok = structured(line); !ok {
		return nil, nil, false
	}
	service, ok = serviceOf(tag)
	return service, bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")), ok
}

// structured takes off structured data: elements in brackets, values in quotes.
func structured(line []byte) ([]byte, bool) {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ']' && !quoted && i+1 < len(line) && line[i+1] == ' ':
			return line[i+2:], line[0] == '['
		}
	}
	return nil, false
}

// serviceOf is the last element of a tag such as postfix/smtpd. What has no
// slash is another program's.
func serviceOf(tag []byte) ([]byte, bool) {
	slash := bytes.LastIndexByte(tag, '/')
	if slash < 1 {
		return nil, false
	}
	return tag[slash+1:], true
}

func word(line []byte) (first, rest []byte) {
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		return line[:i], line[i+1:]
	}
	return line, nil
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// time is the moment that a stamp means.
func (p *parser) time(stamp []byte) (time.Time, bool) {
	if len(stamp) > 0 && stamp[0] >= '0' && stamp[0] <= '9' {
		at, err := time.Parse(time.RFC3339Nano, string(stamp))
		return at, err == nil
	}
	if len(stamp) != stampLength {
		return time.Time{}, false
	}
	if string(stamp) != string(p.stamp[:]) {
		at, ok := p.withYear(string(stamp))
		if !ok {
			return time.Time{}, false
		}
		copy(p.stamp[:], stamp)
		p.at = at
	}
	return p.at, true
}

// ahead is how far a stamp may lie behind the log's last writing: clocks of two
// hosts differ, and a file's time is that of the last block.
const ahead = 24 * time.Hour

// withYear gives a stamp the latest year that does not put it behind the log's
// last writing. The 29th of February exists in few of them.
func (p *parser) withYear(stamp string) (time.Time, bool) {
	zone := p.zone
	if zone == nil {
		zone = time.Local
	}
	// 2000 has a 29th of February.
	t, err := time.ParseInLocation("2006 "+time.Stamp, "2000 "+stamp, time.UTC)
	if err != nil {
		return time.Time{}, false
	}
	latest := p.written.Add(ahead)
	for year := latest.In(zone).Year(); year > latest.Year()-9; year-- {
		at := time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, zone)
		if at.Day() == t.Day() && !at.After(latest) {
			return at, true
		}
	}
	return time.Time{}, false
}

// pidBehind is the process that stands behind a service in its line: smtpd[4334], or
// with RFC 5424 smtpd 4334; 0 for none. The service is a part of the line.
func pidBehind(line, service []byte) int {
	rest := line[min(len(line), cap(line)-cap(service)+len(service)):]
	if len(rest) == 0 || rest[0] != '[' && rest[0] != ' ' {
		return 0
	}
	end := 1
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	pid, _ := decimal(rest[1:end])
	return pid
}

// parseText takes a service's text apart, all but its time.
func parseText(service, text []byte, e *Event) bool {
	times := int64(1)
	if rest, ok := bytes.CutPrefix(text, []byte("message repeated ")); ok {
		number, rest := word(rest)
		inner, ok := bytes.CutPrefix(rest, []byte("times: [ "))
		n, isNumber := decimal(number)
		if !ok || !isNumber || n < 1 || len(inner) == 0 || inner[len(inner)-1] != ']' {
			return false
		}
		times, text = int64(n), inner[:len(inner)-1]
	}
	var ok bool
	switch string(service) {
	case "smtpd":
		ok = client(text, e) || failed(text, e) || ended(text, e) || refused(text, e)
	case "pickup":
		ok = submitted(text, e)
	case "qmgr", "nqmgr", "oqmgr":
		ok = queued(text, e)
	case "local", "virtual", "lmtp", "pipe", "error":
		ok = bounced(text, e)
	}
	e.Times = times
	return ok
}

// cutID takes off "ID: ". Ids are short, capital hexadecimal, or long, of
// letters and digits (mail_queue.h).
func cutID(text []byte) (id, rest []byte, ok bool) {
	i := 0
	for i < len(text) && ofID[text[i]] {
		i++
	}
	if i < 6 || i+1 >= len(text) || text[i] != ':' || text[i+1] != ' ' {
		return nil, nil, false
	}
	return text[:i], text[i+2:], true
}

// ofID are the bytes of ids.
var ofID = func() (is [256]bool) {
	for c := range is {
		is[c] = c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
	}
	return is
}()

// cutPeer takes off name[address] or name[address]:port.
func cutPeer(text []byte) (address, rest []byte, ok bool) {
	open := bytes.IndexByte(text, '[')
	if open < 1 || bytes.IndexByte(text[:open], ' ') >= 0 {
		return nil, nil, false
	}
	shut := bytes.IndexByte(text[open:], ']')
	if shut < 0 {
		return nil, nil, false
	}
	address, rest = text[open+1:open+shut], text[open+shut+1:]
	if len(rest) > 1 && rest[0] == ':' && rest[1] >= '0' && rest[1] <= '9' {
		for rest = rest[1:]; len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9'; {
			rest = rest[1:]
		}
	}
	return address, rest, true
}

// client is smtpd.c's line of a new message.
func client(text []byte, e *Event) bool {
	id, rest, ok := cutID(text)
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte("client=")); !ok {
		return false
	}
	address, rest, ok := cutPeer(rest)
	if !ok {
		return false
	}
	*e = Event{Kind: Client, ID: id, Address: address}
	if rest, ok = bytes.CutPrefix(rest, []byte(", sasl_method=")); !ok {
		return true
	}
	_, user, ok := bytes.Cut(rest, []byte(", sasl_username="))
	if !ok {
		return true
	}
	// A name may hold blanks and commas: it ends where smtpd.c goes on.
	for _, next := range [...]string{", sasl_sender=", ", orig_queue_id=", ", orig_client="} {
		user, _, _ = bytes.Cut(user, []byte(next))
	}
	if len(user) > 0 {
		e.Kind, e.User = Login, user
	}
	return true
}

// failed is smtpd_sasl_glue.c's warning; since 3.5.22 it ends with the name.
func failed(text []byte, e *Event) bool {
	rest, ok := bytes.CutPrefix(text, []byte("warning: "))
	if !ok {
		return false
	}
	address, rest, ok := cutPeer(rest)
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(": SASL ")); !ok {
		return false
	}
	_, rest = word(rest) // the method
	if rest, ok = bytes.CutPrefix(rest, []byte("authentication failed")); !ok {
		return false
	}
	*e = Event{Kind: Failed, Address: address}
	if _, user, ok := bytes.Cut(rest, []byte(", sasl_username=")); ok && string(user) != "(unavailable)" {
		e.User = user
	}
	return true
}

// ended is smtpd.c's line of a client that has gone, or that was told to go.
func ended(text []byte, e *Event) bool {
	rest, ok := bytes.CutPrefix(text, []byte("disconnect from "))
	if !ok {
		return false
	}
	address, _, ok := cutPeer(rest)
	*e = Event{Kind: Ended, Address: address}
	return ok
}

// refused is smtpd's answer to RCPT where the recipient is not there.
func refused(text []byte, e *Event) bool {
	_, rest, ok := cutID(text) // or the word NOQUEUE
	if !ok || !bytes.HasPrefix(rest, []byte("reject: RCPT from ")) {
		return false
	}
	const why = ">: Recipient address rejected: User unknown in "
	end := bytes.Index(rest, []byte(why))
	if end < 0 {
		return false
	}
	begin := bytes.LastIndex(rest[:end], []byte(" <"))
	if begin < 0 || begin+2 == end {
		return false
	}
	*e = Event{Kind: Unknown, Recipient: rest[begin+2 : end]}
	return true
}

// submitted is pickup.c's line.
func submitted(text []byte, e *Event) bool {
	id, rest, ok := cutID(text)
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte("uid=")); !ok {
		return false
	}
	number, rest := word(rest)
	uid, ok := decimal(number)
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte("from=<")); !ok || len(rest) == 0 || rest[len(rest)-1] != '>' {
		return false // or requeued: "> orig_id=OLD"
	}
	*e = Event{Kind: Local, ID: id, UID: uid, Sender: rest[:len(rest)-1]}
	return true
}

// queued is qmgr_active.c's line.
func queued(text []byte, e *Event) bool {
	id, rest, ok := cutID(text)
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte("from=<")); !ok {
		return false
	}
	// What follows the sender has no bracket; an address may hold all of it.
	end := bytes.LastIndexByte(rest, '>')
	if end < 0 || !bytes.HasPrefix(rest[end:], []byte(">, size=")) {
		return false
	}
	*e = Event{Kind: Queued, ID: id, Sender: rest[:end]}
	return true
}

// bounced is a delivery agent's line (log_adhoc.c) for a recipient that is not
// there; of this server, since smtp is not asked.
func bounced(text []byte, e *Event) bool {
	id, rest, ok := cutID(text)
	if !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte("to=<")); !ok {
		return false
	}
	end := bytes.Index(rest, []byte(">, relay="))
	if end < 0 || !bytes.Contains(rest[end:], []byte(", dsn=5.1.1, status=bounced")) {
		return false
	}
	to, original, _ := bytes.Cut(rest[:end], []byte(">, orig_to=<"))
	if len(to) == 0 {
		return false
	}
	*e = Event{Kind: Unknown, ID: id, Recipient: to, Original: original}
	return true
}

// decimal reads a number that an int holds.
func decimal(b []byte) (int, bool) {
	if !digits(b) || len(b) > 10 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		n = n*10 + int(c-'0')
	}
	return n, true
}
