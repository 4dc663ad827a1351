package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/net/netutil"

	"spoolsweep/cmd/spoolsweep/show"
)

// What one scraper, or somebody who is none, may take.
const (
	serveConns   = 16
	serveHeader  = 8 << 10
	serveTimeout = 10 * time.Second
	serveIdle    = 5 * time.Minute // longer than the time between two scrapes
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "look at the queues again and again, and serve metrics to Prometheus",
		UsageText: `spoolsweep serve --listen localhost:9108
spoolsweep serve --listen 10.0.0.5:9108 --every 30s -l 'mx*'
spoolsweep serve --listen localhost:9108 --notify @/etc/spoolsweep/notify`,
		Description: `What 'health -o openmetrics' prints, for Prometheus to scrape at
http://ADDRESS/metrics. All hosts are looked at every so often (--every), over
connections that are kept; a scrape is answered with what the last look found,
and never causes one, however many there are. The time of a host's count is the
metric spoolsweep_swept_time_seconds; before the first look has ended the answer
is 503.

A host that cannot be asked is spoolsweep_host_up 0, and is told once, as is its
return; the others go on. Alert rules and a dashboard for Grafana are in
playbooks/monitoring. Where no Alertmanager is, --notify tells of what is wrong, as
with health --watch; one that is started anew tells it again.

Nothing but GET of /metrics is answered, and nobody is asked who he is: listen on
an address that your Prometheus alone can reach. Ends with Ctrl-C or SIGTERM,
with exit status 0.`,
		Flags: commonFlags(append([]cli.Flag{
			&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` to listen on: HOST:PORT, :PORT for all addresses"},
			&cli.DurationFlag{Name: "every", Value: time.Minute, Usage: "look again after `TIME`"},
			notifyFlag("of what is wrong for a while, and when it is over"),
		}, countFlags()...)...),
		OnUsageError: usageError,
		Action:       serveAction,
	}
}

func serveAction(c *cli.Context) error {
	every := c.Duration("every")
	args, err := countArgs(c)
	switch {
	case c.Args().Present():
		return usageError(c, errArguments(c), false)
	case !c.IsSet("listen"):
		return usageError(c, errors.New("give --listen ADDRESS, such as localhost:9108"), false)
	case every < time.Second:
		return fmt.Errorf("--every %v: at least a second", every)
	case c.String("output") != "text":
		return errors.New("serve prints no document: leave out -o")
	case err != nil:
		return err
	}
	listener, err := new(net.ListenConfig).Listen(c.Context, "tcp", c.String("listen"))
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	s.glances()
	defer s.close()
	defer s.memory.save()
	defer s.notices.flush()
	m := new(metrics)
	server := &http.Server{
		Handler: m, MaxHeaderBytes: serveHeader, ErrorLog: log.New(io.Discard, "", 0),
		ReadTimeout: serveTimeout, WriteTimeout: serveTimeout, IdleTimeout: serveIdle,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(netutil.LimitListener(listener, serveConns)) }()
	defer server.Close()
	s.Note("", "metrics at http://%s/metrics", listener.Addr())
	wrong, seen := map[string]string{}, alarms{}
	for {
		began := time.Now()
		s.health(c.Context, args, nil, false)
		if c.Context.Err() != nil {
			return nil // as it was asked to: no failure of a service
		}
		m.set(show.Metrics(s.doc.Hosts, began))
		s.changes(wrong)
		s.alarm(c.Context, seen)
		select {
		case <-time.After(time.Until(began.Add(every))):
		case err := <-ended:
			return fmt.Errorf("--listen: %w", err)
		case <-c.Context.Done():
			return nil
		}
	}
}

// changes tells of each host that went wrong, or otherwise wrong, since the last
// look, and of each that came back. wrong is what was told.
func (s *sweep) changes(wrong map[string]string) {
	for _, m := range s.members {
		label, now := m.Label(), ""
		if m.Error != nil {
			now = m.Status + ": " + m.Error.Message
		}
		switch before := wrong[label]; {
		case now == "" && before != "":
			s.Alert(label, "answers again")
		case now == before && m.Error != nil:
			m.Error.Told = true
		}
		wrong[label] = now
	}
	s.Failures(s.doc)
}

// metrics are what the last look found.
type metrics struct{ page atomic.Pointer[string] }

func (m *metrics) set(page string) { m.page.Store(&page) }

func (m *metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page := m.page.Load()
	switch {
	case r.URL.Path != "/metrics":
		http.Error(w, "the metrics are at /metrics", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "metrics are read", http.StatusMethodNotAllowed)
	case page == nil:
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the first look at the hosts has not ended", http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
		_, _ = io.Copy(w, strings.NewReader(*page)) // whoever went away needs no answer
	}
}
