package show

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// Screen is the end of a terminal, where some lines are drawn anew while what was
// said stands above them, and scrolls up as it always does. Of the terminal it
// wants no more than that the cursor goes up and the rest of a line, or of the
// screen, is erased; no mode of it is changed, so that nothing is to be put right
// when the program is killed.
type Screen struct {
	w      io.Writer
	size   func() (width, height int)
	colour bool

	shown []string // the lines as they were drawn; the cursor stands below them
	width int      // of the terminal then
	typed int      // lines by which the cursor went further down since: a terminal echoes
}

// NewScreen returns the Screen of the terminal that w writes to. A size of 0 says
// that nothing is to be drawn just now.
func NewScreen(w io.Writer, size func() (width, height int), colour bool) *Screen {
	return &Screen{w: w, size: size, colour: colour}
}

// What a terminal is told.
const (
	cursorUp  = "\x1b[%dA"
	eraseLine = "\x1b[K" // what is right of the cursor
	eraseDown = "\x1b[J" // and all below
	red       = "\x1b[31m"
	plain     = "\x1b[m"
)

// frame is what to write so that what was said stands there, and below it the rows:
// of these only what has changed.
func (s *Screen) frame(said []byte, rows []row, width int) []byte {
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = r.text
		if r.alarm && s.colour {
			lines[i] = red + r.text + plain
		}
	}
	var b bytes.Buffer
	if len(said) > 0 || width != s.width || s.typed > 0 {
		s.erase(&b, width)
		b.Write(said)
	}
	same := 0
	for same < len(lines) && same < len(s.shown) && lines[same] == s.shown[same] {
		same++
	}
	if up := len(s.shown) - same; up > 0 {
		fmt.Fprintf(&b, "\r"+cursorUp, up)
	}
	for i, line := range lines[same:] {
		if i += same; i >= len(s.shown) || line != s.shown[i] {
			b.WriteString("\r" + line + eraseLine)
		}
		b.WriteByte('\n')
	}
	if len(lines) < len(s.shown) {
		b.WriteString("\r" + eraseDown)
	}
	s.shown, s.width = lines, width
	return b.Bytes()
}

// write writes it, in one write.
func (s *Screen) write(b []byte) {
	if len(b) > 0 {
		_, _ = s.w.Write(b) // who looks is gone: the work goes on
	}
}

// erase removes the lines.
func (s *Screen) erase(b *bytes.Buffer, width int) {
	up := s.typed
	for _, line := range s.shown {
		// A terminal that was made narrower has broken long lines.
		up += max(1, (columns(bare(line))+width-1)/max(1, width))
	}
	b.WriteByte('\r')
	if up > 0 {
		// Never from the very first place of the screen: some terminals then keep what
		// they erase among what was scrolled away.
		fmt.Fprintf(b, cursorUp+eraseLine+"\n"+eraseDown+cursorUp, up, 1)
	}
	b.WriteString(eraseLine)
	s.shown, s.typed = nil, 0
}

// bare is a line without its colour.
func bare(line string) string {
	if len(line) > len(red)+len(plain) && line[:len(red)] == red {
		return line[len(red) : len(line)-len(plain)]
	}
	return line
}

// withdraw is what to write so that what was said stands alone on the screen, and the
// cursor below it.
func (s *Screen) withdraw(said []byte) []byte {
	var b bytes.Buffer
	if len(s.shown) > 0 || s.typed > 0 {
		width, _ := s.size()
		s.erase(&b, max(1, width))
	}
	b.Write(said)
	return b.Bytes()
}

// frameEvery is how often the lines are drawn at most: often enough for an eye, and
// seldom enough for a slow link.
const frameEvery = 200 * time.Millisecond

// Follow shows from now on, until stop, where these hosts of a run are: on Screen,
// if there is one, and to who asks with [Printer.Typed].
func (p *Printer) Follow(hosts []string) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live.add(hosts...)
	if p.Screen == nil {
		return func() {}
	}
	p.drawn = true
	over, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		p.redraw(over)
	}()
	return func() {
		close(over)
		<-gone
		p.writing.Lock()
		defer p.writing.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.drawn = false
		p.Screen.write(p.Screen.withdraw(p.takeSaid()))
	}
}

// redraw draws until over is closed, and at once where the terminal has another
// size, or is ours again.
func (p *Printer) redraw(over <-chan struct{}) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH, syscall.SIGCONT)
	defer signal.Stop(changed)
	tick := time.NewTicker(frameEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case sig := <-changed:
			if sig == syscall.SIGCONT { // others have written there meanwhile
				p.mu.Lock()
				p.Screen.shown, p.Screen.typed = nil, 0
				p.mu.Unlock()
			}
		case <-tick.C:
		}
		p.draw()
	}
}

// draw writes while nothing else is held up: a terminal may be at the end of a slow
// link, or stopped with Ctrl-S, and the hosts are followed on.
func (p *Printer) draw() {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.Screen.write(p.picture())
}

func (p *Printer) picture() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.asking > 0 && !p.urgent:
		return nil
	case p.asking > 0:
		return p.Screen.withdraw(slices.Concat([]byte("\n"), p.takeSaid(), []byte(p.asked)))
	}
	width, height := p.Screen.size()
	if width <= 0 || height <= 0 {
		p.Screen.shown, p.Screen.typed = nil, 0
		return p.Screen.withdraw(p.takeSaid())
	}
	return p.Screen.frame(p.takeSaid(), p.live.lines(time.Now(), width, height), width)
}

// said is a line that is to stand above the others; hosts that say the same one
// after the other are told on one, as clush -b does.
type said struct {
	hosts []string
	text  string
}

func (p *Printer) say(host, text string) {
	if n := len(p.said); n > 0 && host != "" && p.said[n-1].text == text && len(p.said[n-1].hosts) > 0 {
		p.said[n-1].hosts = append(p.said[n-1].hosts, host)
		return
	}
	line := said{text: text}
	if host != "" {
		line.hosts = []string{host}
	}
	p.said = append(p.said, line)
}

// takeSaid is what is to stand above the lines and was not written yet.
func (p *Printer) takeSaid() []byte {
	var b bytes.Buffer
	for _, line := range p.said {
		fmt.Fprintln(&b, p.labelled(Names(line.hosts), line.text))
	}
	p.said, p.urgent = nil, false
	return b.Bytes()
}

// Expect names hosts of a run that are followed later, if at all.
func (p *Printer) Expect(hosts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live.add(hosts...)
}

// Left says what a host has come to that is not followed any more.
func (p *Printer) Left(host, status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.live.by[host]; s != nil {
		s.left(status)
	}
}

// Silent says since when a host is; the zero time, that it answers again.
func (p *Printer) Silent(host string, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.live.by[host]; s != nil {
		s.silent = since
	}
}

// Typed takes in a line that was typed while no question was open. An empty one
// asks who is still at work.
func (p *Printer) Typed(text string) {
	p.mu.Lock()
	var busy []string
	if text == "" {
		busy = p.live.busy(time.Now())
	}
	if p.drawn && p.asking == 0 {
		width, _ := p.Screen.size()
		p.Screen.typed += 1 + columns(Clean(text))/max(1, width)
	}
	p.mu.Unlock()
	for _, line := range busy {
		p.Alert("", "%s", line)
	}
}

// Ask prints a question, and leaves the cursor behind it: all else waits until
// [Printer.Answered], but for what went wrong, after which it is asked again.
func (p *Printer) Ask(question string) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	text := []byte(question)
	if p.drawn && p.asking == 0 {
		text = append(p.Screen.withdraw(p.takeSaid()), text...)
	}
	p.asking++
	p.asked = question
	if !p.drawn {
		defer p.mu.Unlock()
		_, _ = p.Err.Write(text)
		return
	}
	p.mu.Unlock()
	p.Screen.write(text)
}

// Answered ends a question. Where no line was typed just now, the cursor stands behind
// it still.
func (p *Printer) Answered(typed bool) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking--
	if !typed {
		fmt.Fprintln(p.Err)
	}
}

// Break begins a new line where the terminal shows what was typed.
func (p *Printer) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.drawn { // else that is drawn over
		fmt.Fprintln(p.Err)
	}
}
