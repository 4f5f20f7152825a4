// Package page shows counts as JSON, and as a web page.
package page

import (
	"encoding/json"
	"io"
	"text/template"

	"croft.example/report/internal/words"
)

var page = template.Must(template.New("page").Parse(
	`<table>{{range .}}<tr><td>{{.Word | html}}<td>{{.Times}}{{end}}</table>`))

// JSON writes the counts for programs.
func JSON(to io.Writer, counts []words.Counted) error {
	return json.NewEncoder(to).Encode(counts)
}

// HTML writes the counts for people.
func HTML(to io.Writer, counts []words.Counted) error {
	return page.Execute(to, counts)
}
