package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/source"
	"windrose.dev/windrose/internal/translate"
)

// read reads manifests and translates them as a running windrose would, but
// for the state of processes: every workload is taken as ready.
func read(paths []string, ages ages) (*object.Set, *translate.Result, []object.Finding, error) {
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil, &failure{exitNotFound, fmt.Errorf("read manifests: %s does not exist", path), "name files or folders of manifests"}
		}
	}
	set, err := source.Read(paths)
	if err != nil {
		return nil, nil, nil, err
	}
	ages.apply(set)
	set = withReadyWorkloads(set)
	result := translate.New(translate.Env{Addresses: []string{"127.0.0.1"}, Now: time.Now}).Plan(set)
	findings := append(append([]object.Finding(nil), set.Findings...), source.Locate(set, append([]object.Finding(nil), result.Findings...))...)
	object.SortFindings(findings)
	return set, result, findings, nil
}

// ages are the creation times of objects that exist already. Age decides
// between objects that claim the same, so an object that is new must not win
// against one that is there. nil leaves all objects without age, as equals.
type ages map[object.Key]metav1.Time

// apply gives the objects of a Set that nobody else has seen yet their age.
func (a ages) apply(set *object.Set) {
	if a == nil {
		return
	}
	// Times are compared in seconds, and the youngest may be of this one.
	next := metav1.Now()
	for _, t := range a {
		if !t.IsZero() && !t.Time.Before(next.Time.Add(-time.Second)) {
			next = metav1.NewTime(t.Add(time.Second))
		}
	}
	for o := range set.All {
		if t := o.GetCreationTimestamp(); !t.IsZero() {
			continue
		}
		created, there := a[object.KeyOf(o)]
		if !there {
			created = next
		}
		o.SetCreationTimestamp(created)
	}
}

func agesIn(set *object.Set) ages {
	all := ages{}
	for o := range set.All {
		all[object.KeyOf(o)] = o.GetCreationTimestamp()
	}
	return all
}

func withReadyWorkloads(set *object.Set) *object.Set {
	workloads := make([]*v1alpha1.Workload, 0, set.Workloads.Len())
	for _, w := range set.Workloads.All() {
		ready := *w
		ready.Status = v1alpha1.WorkloadStatus{Address: w.Spec.Address, Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue}}}
		if ready.Status.Address == "" {
			ready.Status.Address = "127.0.0.1"
		}
		workloads = append(workloads, &ready)
	}
	next := *set
	next.Workloads = object.NewTable(workloads...)
	return &next
}
