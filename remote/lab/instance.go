package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// instances is the folder of what belongs to further instances of a host.
const instances = "instances"

// instanceName is what postmulti takes, and shorter than a socket's path.
var instanceName = regexp.MustCompile(`^postfix-[a-z0-9]{1,20}$`)

// makeInstance makes the instance $1 as an admin does, and gives it the lab's
// settings, a port for SMTP and one where its mail goes.
const makeInstance = `name=$1 smtp=$2 sink=$3
if [ -z "$(postconf -h multi_instance_wrapper)" ]; then postmulti -e init; fi
postmulti -I "$name" -e create
cp /usr/share/postfix/master.cf.dist "/etc/$name/master.cf"
sed -i "s/^smtp  *inet/$smtp inet/" "/etc/$name/master.cf"
grep '^[a-z]' /etc/lab/main.cf | tr '\n' '\0' | xargs -0 postconf -c "/etc/$name" -e
postconf -c "/etc/$name" -e master_service_disable= authorized_submit_users=static:anyone "default_transport=smtp:[127.0.0.1]:$sink"
postmulti -i "$name" -e enable
touch -d '1 minute ago' /etc/postfix/main.cf "/etc/$name/main.cf"
/usr/lib/postfix/configure-instance.sh "$name"
postfix -c "/etc/$name" start
`

// AddInstance gives the host one more Postfix, made by postmulti and started. What
// is returned is the host as far as that one is concerned: its spool, its mail, its
// port, its sink. The host is booted again for it; Reset takes it away. Of its
// sink only the default instance's outlives a Restart.
func (h *Host) AddInstance(ctx context.Context, name string) (*Host, error) {
	if h.Instance != "" || !instanceName.MatchString(name) {
		return nil, fmt.Errorf("instance %q of %s: want a name such as postfix-out, and a host", name, h.Name)
	}
	others, err := filepath.Glob(h.file(instances, "*"))
	if err != nil {
		return nil, err
	}
	// A directory of the disk, as the default spool is, before the host's tree is made.
	for _, dir := range []string{"spool", "delivered"} {
		if err := os.MkdirAll(h.file(instances, name, dir), 0o755); err != nil {
			return nil, err
		}
	}
	port := strconv.Itoa(firstPort + len(others))
	if err := os.WriteFile(h.file(instances, name, "port"), []byte(port), 0o644); err != nil {
		return nil, err
	}
	if err := h.Restart(ctx); err != nil {
		return nil, err
	}
	of, err := h.instance(name)
	if err != nil {
		return nil, err
	}
	_, err = h.Run(ctx, "sh", "-euc", makeInstance, "sh", name, strconv.Itoa(of.port), strconv.Itoa(of.port+sinkAbove))
	return of, err
}

// instance is the host as far as one of its further instances is concerned.
func (h *Host) instance(name string) (*Host, error) {
	of := *h
	of.Instance = name
	text, err := os.ReadFile(of.own("port"))
	if err == nil {
		of.port, err = strconv.Atoi(string(text))
	}
	if err != nil {
		return nil, fmt.Errorf("instance %s of %s: %w", name, h.Name, err)
	}
	return &of, nil
}

// Config is the instance's configuration directory inside the host.
func (h *Host) Config() string {
	if h.Instance == "" {
		return "/etc/postfix"
	}
	return "/etc/" + h.Instance
}

// Queues is the instance's queue directory inside the host.
func (h *Host) Queues() string {
	if h.Instance == "" {
		return "/var/spool/postfix"
	}
	return "/var/spool/" + h.Instance
}

// The first further instance takes its mail at firstPort; its sink is so many above.
const (
	firstPort = 2501
	sinkAbove = 100
)

// smtp is where the instance takes mail, sink where it sends it.
func (h *Host) smtp() string {
	if h.Instance == "" {
		return "127.0.0.1:25"
	}
	return fmt.Sprintf("127.0.0.1:%d", h.port)
}

// sink is where the sink listens: the first instance's on every address of the
// loopback net, each of which is a destination of its own to the queue manager.
func (h *Host) sink() string {
	if h.Instance == "" {
		return ":9"
	}
	return fmt.Sprintf("127.0.0.1:%d", h.port+sinkAbove)
}
