//go:build dist

package push

import "embed"

// dist are the agents of a release, as Pack leaves them.
//
//go:embed bin/*.gz
var dist embed.FS
