package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"windrose.dev/windrose/internal/atomicfile"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/schema"
)

// ledgerName is the file in the state folder.
const ledgerName = "ledger.json"

// maxLedgerBytes bounds what is read back.
const maxLedgerBytes = 256 << 20

// record is what must outlive a restart about one object, so that a restart
// gives the same Set as the reload before did.
type record struct {
	Created    int64         `json:"created"` // seconds since 1970
	UID        types.UID     `json:"uid"`
	Generation int64         `json:"generation"`
	Spec       schema.Digest `json:"spec"`
	File       string        `json:"file,omitempty"` // of Good
	// Good is the version in effect of an object that is wrong now.
	Good json.RawMessage `json:"good,omitempty"`
}

// recorded is an entry of the ledger's file.
type recorded struct {
	object.Key
	record
}

type ledgerFile struct {
	Version int        `json:"version"`
	Objects []recorded `json:"objects"`
}

func recordOf(l *live) record {
	return record{
		Created: l.object.GetCreationTimestamp().Unix(), UID: l.object.GetUID(),
		Generation: l.object.GetGeneration(), Spec: l.spec,
	}
}

// stamp gives an object its identity. What the manifest says about its time of
// creation and id counts more.
func (r record) stamp(o metav1.Object) {
	if t := o.GetCreationTimestamp(); t.IsZero() {
		o.SetCreationTimestamp(metav1.Unix(r.Created, 0))
	}
	if o.GetUID() == "" {
		o.SetUID(r.UID)
	}
	o.SetGeneration(r.Generation)
}

// records is what the ledger should hold now.
func (x *index) records() ([]recorded, error) {
	all := make([]recorded, 0, len(x.live)+len(x.past))
	for k, r := range x.past {
		all = append(all, recorded{k, r})
	}
	for k, l := range x.live {
		if l.object == nil {
			continue
		}
		r := recordOf(l)
		if l.wrong {
			good, err := json.Marshal(l.object)
			if err != nil {
				return nil, fmt.Errorf("write %s into the ledger: %w", k, err)
			}
			r.File, r.Good = l.file, good
		}
		all = append(all, recorded{k, r})
	}
	return all, nil
}

// readLedger reads the ledger of a state folder. There being none is fine.
func readLedger(dir string) (map[object.Key]record, error) {
	path := filepath.Join(dir, ledgerName)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[object.Key]record{}, nil
	} else if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxLedgerBytes {
		return nil, errors.New("is not a ledger")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var l ledgerFile
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, err
	}
	if l.Version != 1 {
		return nil, fmt.Errorf("version %d is not known", l.Version)
	}
	past := make(map[object.Key]record, len(l.Objects))
	for _, r := range l.Objects {
		past[r.Key] = r.record
	}
	return past, nil
}

// writeLedger replaces the ledger so that a crash leaves the old or the new
// one. Others may not read it: a last good version may be a Secret.
func writeLedger(dir string, records []recorded) error {
	text, err := json.Marshal(ledgerFile{Version: 1, Objects: records})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.ReplaceDurably(filepath.Join(dir, ledgerName), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

func ledgerFinding(dir string, err error, then string) object.Finding {
	return object.Finding{
		Severity: object.Warning, Reason: ReasonLedger, Place: object.Place{File: filepath.Join(dir, ledgerName)},
		Message: cause(err) + "; " + then,
	}
}

func unmarshal(text []byte, into *map[string]any) error {
	return kjson.UnmarshalCaseSensitivePreserveInts(text, into)
}

// Bounds of how often the ledger is written.
const (
	ledgerSoon  = 100 * time.Millisecond // after an object went wrong
	ledgerLater = time.Second
)
