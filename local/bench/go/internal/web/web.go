// Package web serves counts as JSON, and as a page.
package web

import (
	"encoding/json"
	"html/template"
	"net/http"

	"croft.example/report/internal/words"
)

var page = template.Must(template.New("page").Parse(
	`<table>{{range .}}<tr><td>{{.Word}}<td>{{.Times}}{{end}}</table>`))

// Handler serves these counts.
func Handler(counts []words.Counted) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/counts.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(counts); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if err := page.Execute(w, counts); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}
