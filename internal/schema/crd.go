package schema

import (
	"archive/zip"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"windrose.dev/windrose/internal/object"
)

//go:generate go run generate.go

// archive holds index.json and the schemas, see generate.go.
//
//go:embed crds.zip
var archive []byte

// crd describes a kind of the archive.
type crd struct {
	Group    string       `json:"group"`
	Kind     string       `json:"kind"`
	List     string       `json:"list"`
	Cluster  bool         `json:"cluster"`
	Versions []crdVersion `json:"versions"`
}

type crdVersion struct {
	Name       string `json:"name"`
	File       string `json:"file"`
	Storage    bool   `json:"storage"`
	Deprecated string `json:"deprecated"`
}

// typedVersion is the version of the Go type: v1 where there is one. All
// versions of a kind have one shape, as its CRD, which converts nothing, says.
func (c *crd) typedVersion() string {
	for _, v := range c.Versions {
		if v.Name == "v1" {
			return v.Name
		}
	}
	return c.Versions[0].Name
}

func (c *crd) warn(version string, r *report) {
	for _, v := range c.Versions {
		if v.Name == version && v.Deprecated != "" {
			r.add(object.Warning, ReasonVersion, "apiVersion", v.Deprecated)
			r.mend("use apiVersion: " + join(c.Group, c.typedVersion()))
		}
	}
}

func (c *crd) file(version string) string {
	for _, v := range c.Versions {
		if v.Name == version {
			return v.File
		}
	}
	return ""
}

// crds are the kinds of the archive, compiled as they are needed.
type crds struct {
	catalogue
	compiled map[string]*compiled // by file
}

// compiled is a schema ready for use.
type compiled struct {
	structural *structural.Structural
	openapi    validation.SchemaValidator
	rules      *rules
}

func newCRDs() *crds {
	var index []crd
	if text, err := unpack("index.json"); err == nil {
		// A broken archive leaves the catalogue without CRDs; a test reads it.
		_ = json.Unmarshal(text, &index)
	}
	return &crds{catalogue: newCatalogue(index), compiled: map[string]*compiled{}}
}

func (c *crds) release() { c.compiled = map[string]*compiled{} }

func unpack(name string) ([]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, err
	}
	f, err := z.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return text, f.Close()
}

// compile gives the schema of a file of the archive.
func (c *crds) compile(file string) (*compiled, error) {
	if s, ok := c.compiled[file]; ok {
		return s, nil
	}
	text, err := unpack(file)
	if err != nil {
		return nil, err
	}
	var props apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(text, &props); err != nil {
		return nil, err
	}
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&props, &internal, nil); err != nil {
		return nil, err
	}
	s := &compiled{}
	if s.structural, err = structural.NewStructural(&internal); err != nil {
		return nil, err
	}
	if s.openapi, _, err = validation.NewSchemaValidator(&internal); err != nil {
		return nil, err
	}
	s.rules = newRules(s.structural)
	c.compiled[file] = s
	return s, nil
}

// check does what an API server does with a custom object on create.
func (c *crds) check(k *kind, doc map[string]any, r *report) {
	s, err := c.compile(k.crd.file(k.version))
	if err != nil {
		r.add(object.Error, ReasonInvalid, "", fmt.Sprintf("the schema of %s cannot be used: %v", k.name, err))
		return
	}
	defaulting.Default(doc, s.structural)
	defaulting.PruneNonNullableNullsWithoutDefaults(doc, s.structural)
	for _, path := range pruning.PruneWithOptions(doc, s.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		path = strings.TrimPrefix(path, ".")
		name := path[strings.LastIndexAny(path, ".")+1:]
		r.unknownField(path, name, s.fieldsAt(path))
	}
	errs := validation.ValidateCustomResource(nil, doc, s.openapi)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, doc, s.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structural, doc)...)
	r.errors(errs)
	// Rules count on values of the right type and length.
	if !slices.ContainsFunc(errs, blocks) {
		r.rules(s.rules.check(doc))
	}
}

// rules adds what CEL rules found. Their value is the name of a type.
func (r *report) rules(errs field.ErrorList) {
	for _, e := range errs {
		e.BadValue = nil
		r.err(e)
	}
}

func blocks(e *field.Error) bool {
	switch e.Type {
	case field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

// fieldsAt gives the fields that may stand beside the one that path names.
func (s *compiled) fieldsAt(path string) []string {
	at := s.structural
	steps := Steps(path)
	for _, step := range steps[:max(0, len(steps)-1)] {
		if at == nil {
			return nil
		}
		at = child(at, step)
	}
	if at == nil {
		return nil
	}
	return slices.Collect(maps.Keys(at.Properties))
}

func child(s *structural.Structural, step string) *structural.Structural {
	if p, ok := s.Properties[step]; ok {
		return &p
	}
	if _, err := strconv.Atoi(step); err == nil && s.Items != nil {
		return s.Items
	}
	if s.AdditionalProperties != nil {
		return s.AdditionalProperties.Structural
	}
	return nil
}

// Steps cuts a field path as `spec.rules[0].name` or `data[tls.crt]` into
// names, indices and keys.
func Steps(path string) []string {
	var steps []string
	for path != "" {
		switch path[0] {
		case '.':
			path = path[1:]
		case '[':
			end := strings.IndexByte(path, ']')
			if end < 0 {
				return append(steps, path[1:])
			}
			steps = append(steps, strings.Trim(path[1:end], `"'`))
			path = path[end+1:]
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			steps = append(steps, path[:end])
			path = path[end:]
		}
	}
	return steps
}
