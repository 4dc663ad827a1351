//go:build !dist

package push

import "embed"

// dist is empty: no agent is in a program that was not built as a release.
var dist embed.FS
