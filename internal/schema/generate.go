//go:build ignore

// Generate writes crds.zip: the schemas of Gateway API's experimental channel,
// as the module in go.mod has them, and of windrose's own kinds, without what
// validation does not need. Run it with `go generate ./...`.
package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// kind is an entry of index.json; see crd.go, which reads it.
type kind struct {
	Group    string    `json:"group"`
	Kind     string    `json:"kind"`
	List     string    `json:"list"`
	Cluster  bool      `json:"cluster,omitempty"`
	Versions []version `json:"versions"`
}

type version struct {
	Name       string `json:"name"`
	File       string `json:"file"`
	Storage    bool   `json:"storage,omitempty"`
	Deprecated string `json:"deprecated,omitempty"`
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("schema: ")
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		log.Fatalf("find gateway-api: %v", err)
	}
	var files []string
	for _, pattern := range []string{
		filepath.Join(strings.TrimSpace(string(dir)), "config/crd/experimental/*.yaml"),
		"../../deploy/crds/*.yaml",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			log.Fatalf("no CRDs at %s", pattern)
		}
		files = append(files, found...)
	}
	archive, err := pack(files)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("crds.zip", archive, 0o644); err != nil {
		log.Fatal(err)
	}
}

// pack gives an archive with index.json and a file for each different schema.
func pack(files []string) ([]byte, error) {
	var kinds []kind
	schemas := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			var crd apiextensionsv1.CustomResourceDefinition
			if err := yaml.Unmarshal([]byte(doc), &crd); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if crd.Kind != "CustomResourceDefinition" {
				continue
			}
			k, err := reduce(&crd, schemas)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			kinds = append(kinds, k)
		}
	}
	slices.SortFunc(kinds, func(a, b kind) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind))
	})
	index, err := json.Marshal(kinds)
	if err != nil {
		return nil, err
	}
	schemas["index.json"] = index
	return compress(schemas)
}

// reduce adds the schemas of a CRD to schemas and describes the kind. Versions
// with one schema share a file.
func reduce(crd *apiextensionsv1.CustomResourceDefinition, schemas map[string][]byte) (kind, error) {
	k := kind{
		Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind, List: crd.Spec.Names.ListKind,
		Cluster: crd.Spec.Scope == apiextensionsv1.ClusterScoped,
	}
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		s := v.Schema.OpenAPIV3Schema
		// Status is never read from files.
		delete(s.Properties, "status")
		s.Required = slices.DeleteFunc(s.Required, func(name string) bool { return name == "status" })
		strip(s)
		text, err := json.Marshal(s)
		if err != nil {
			return kind{}, err
		}
		next := version{Name: v.Name, Storage: v.Storage, File: fmt.Sprintf("%s/%s.%s.json", k.Group, k.Kind, v.Name)}
		if v.Deprecated {
			next.Deprecated = fmt.Sprintf("%s/%s of %s is deprecated", k.Group, v.Name, k.Kind)
		}
		for _, earlier := range k.Versions {
			if bytes.Equal(schemas[earlier.File], text) {
				next.File = earlier.File
			}
		}
		schemas[next.File] = text
		k.Versions = append(k.Versions, next)
	}
	return k, nil
}

// strip removes descriptions, which are most of the text.
func strip(s *apiextensionsv1.JSONSchemaProps) {
	s.Description, s.Title, s.Example, s.ExternalDocs = "", "", nil, nil
	for name, p := range s.Properties {
		strip(&p)
		s.Properties[name] = p
	}
	if s.Items != nil && s.Items.Schema != nil {
		strip(s.Items.Schema)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		strip(s.AdditionalProperties.Schema)
	}
	for _, some := range [][]apiextensionsv1.JSONSchemaProps{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range some {
			strip(&some[i])
		}
	}
	if s.Not != nil {
		strip(s.Not)
	}
}

func compress(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
