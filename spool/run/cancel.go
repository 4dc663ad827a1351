package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// cancelName is the file that tells a worker to end after its current step. It is
// looked for between stages and batches, never between stop and start.
const cancelName = "cancel"

// CancelRequest asks to end a run after its current step.
type CancelRequest struct {
	Vars stage.Vars `json:"vars"`
	Run  string     `json:"run"`
	By   string     `json:"by"` // user@laptop
}

type cancelRecord struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Cancel has whoever works on a run end after the current step. It holds until
// the run is resumed; a run that nobody works on is left as it is.
func (e *Env) Cancel(q *CancelRequest) error {
	dir, err := e.dir(q.Vars, q.Run)
	if err != nil {
		return err
	}
	if _, err := readInfo(dir); err != nil {
		return err
	}
	if err := replaceJSON(dir, cancelName, cancelRecord{By: q.By, At: time.Now().UTC()}); err != nil {
		return fmt.Errorf("cancel %s: %w", q.Run, err)
	}
	return nil
}

// cancelled says whether the run is to end.
func (r *runner) cancelled() bool {
	_, err := os.Lstat(filepath.Join(r.dir, cancelName))
	return err == nil
}

// cancelledError tells by whom, and what may be done then.
func (r *runner) cancelledError() error {
	text, err := os.ReadFile(filepath.Join(r.dir, cancelName))
	var c cancelRecord
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	why := fmt.Errorf("%w by %s at %s", spool.ErrCancelled, c.By, c.At.Format(time.RFC3339))
	if err != nil {
		why = spool.ErrCancelled
	}
	switch r.info.Name {
	case "hold":
		return spool.Remedied(why, "spoolsweep release "+r.info.Run) // a whole line, which the controller completes
	case "release", "requeue", "delete", "export": // nothing is aside
		return spool.Remedied(why, "spoolsweep resume "+r.info.Run+" goes on there")
	}
	return spool.Remedied(why, fmt.Sprintf("spoolsweep resume %s goes on there, spoolsweep putback %[1]s sends back what is aside", r.info.Run))
}

// goOn takes a cancel back: somebody wants the run to go on.
func goOn(dir string) error {
	if err := os.Remove(filepath.Join(dir, cancelName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
