package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

// kinds are the struct types of a Go file by name, with their comments.
type kinds map[string]kind

type kind struct {
	doc    string
	fields []field
}

type field struct {
	name, doc string
	of        string // Go type without pointers and slices
	shown     string // for the reader
	rules     []string
}

func readKinds(file string) (kinds, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	all := kinds{}
	for _, decl := range parsed.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.TYPE {
			continue
		}
		for _, spec := range group.Specs {
			typ, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			if st, ok := typ.Type.(*ast.StructType); ok {
				doc, _ := split(group.Doc)
				all[typ.Name.Name] = kind{doc: doc, fields: readFields(st)}
			}
		}
	}
	return all, nil
}

func readFields(st *ast.StructType) []field {
	var all []field
	for _, f := range st.Fields.List {
		if len(f.Names) != 1 || f.Tag == nil {
			continue
		}
		tag, options, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
		doc, rules := split(f.Doc)
		if !strings.Contains(options, "omit") {
			rules = append([]string{"required"}, rules...)
		}
		of, shown := typeOf(f.Type)
		all = append(all, field{name: tag, doc: doc, of: of, shown: shown, rules: rules})
	}
	return all
}

// split parts a comment into its text and what its markers say.
func split(c *ast.CommentGroup) (doc string, rules []string) {
	if c == nil {
		return "", nil
	}
	var words []string
	for line := range strings.Lines(c.Text()) {
		line = strings.TrimSpace(line)
		marker, ok := strings.CutPrefix(line, "+")
		if !ok {
			words = append(words, line)
			continue
		}
		if rule := rule(marker); rule != "" {
			rules = append(rules, rule)
		}
	}
	return strings.TrimSpace(strings.Join(words, " ")), rules
}

// rule says a marker in words; "" for those that are of no interest.
func rule(marker string) string {
	name, value, _ := strings.Cut(marker, "=")
	switch name {
	case "kubebuilder:default":
		return "default " + strings.Trim(value, `"`)
	case "kubebuilder:validation:Enum":
		return "one of " + strings.ReplaceAll(value, ";", ", ")
	case "kubebuilder:validation:Minimum":
		return "at least " + value
	case "kubebuilder:validation:Maximum":
		return "at most " + value
	case "kubebuilder:validation:MinItems":
		return "at least " + value + " items"
	}
	return ""
}

func typeOf(e ast.Expr) (of, shown string) {
	switch t := e.(type) {
	case *ast.StarExpr:
		return typeOf(t.X)
	case *ast.ArrayType:
		of, shown = typeOf(t.Elt)
		return of, "list of " + shown
	case *ast.Ident:
		switch {
		case t.Name == "int32":
			return t.Name, "number"
		case ast.IsExported(t.Name):
			return t.Name, "object"
		}
		return t.Name, t.Name
	case *ast.SelectorExpr:
		switch t.Sel.Name {
		case "Duration":
			return t.Sel.Name, `duration, as "10s"`
		case "IntOrString":
			return t.Sel.Name, "number or string"
		}
		return t.Sel.Name, strings.ToLower(t.Sel.Name)
	}
	return "", "object"
}

// page writes what a kind is and its fields.
func (k kinds) page(b *bytes.Buffer, name, spec, status string) {
	fmt.Fprintf(b, "# %s\n\n`apiVersion: windrose.dev/v1alpha1`, `kind: %s`\n\n%s\n\n", name, name, k[name].doc)
	fmt.Fprintf(b, "## spec\n\n%s\n\n| field | type | |\n|---|---|---|\n", k[spec].doc)
	k.rows(b, "", spec)
	if status != "" {
		fmt.Fprintf(b, "\n## status\n\n%s\n\n| field | type | |\n|---|---|---|\n", k[status].doc)
		k.rows(b, "", status)
	}
}

func (k kinds) rows(b *bytes.Buffer, prefix, name string) {
	for _, f := range k[name].fields {
		text := cmp.Or(f.doc, k[f.of].doc)
		if len(f.rules) > 0 {
			text = strings.TrimSpace(text + " (" + strings.Join(f.rules, "; ") + ")")
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", prefix+f.name, f.shown, strings.ReplaceAll(text, "|", "\\|"))
		if _, ok := k[f.of]; ok {
			mark := "."
			if strings.HasPrefix(f.shown, "list of") {
				mark = "[]."
			}
			k.rows(b, prefix+f.name+mark, f.of)
		}
	}
}
