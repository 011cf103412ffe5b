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
func read(paths []string) (*object.Set, *translate.Result, []object.Finding, error) {
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil, &failure{exitNotFound, fmt.Errorf("read manifests: %s does not exist", path), "name files or folders of manifests"}
		}
	}
	set, err := source.Read(paths)
	if err != nil {
		return nil, nil, nil, err
	}
	set = withReadyWorkloads(set)
	result := translate.New(translate.Env{Addresses: []string{"127.0.0.1"}, Now: time.Now}).Plan(set)
	findings := append(append([]object.Finding(nil), set.Findings...), source.Locate(set, append([]object.Finding(nil), result.Findings...))...)
	object.SortFindings(findings)
	return set, result, findings, nil
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
