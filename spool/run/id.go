package run

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// NewID makes the name of a run that begins now. Ids sort by time, also those of
// one second: the newest run is the last of them.
func NewID(now time.Time) string {
	const steps = 36 * 36 // two digits: of a second, and of chance
	digits := func(n int64) string { return strconv.FormatInt(steps+n, 36)[1:] }
	return now.UTC().Format("20060102T150405Z") + "-" + digits(int64(now.Nanosecond())*steps/int64(time.Second)) + digits(rand.Int64N(steps))
}
