// Package table lays counts out for people.
package table

import (
	"strings"
	"text/tabwriter"
	"fmt"

	"croft.example/report/internal/words"
)

// Title stands above every table.
const Title = "word\ttimes"

// Format gives the table as text.
func Format(counts []words.Counted) string {
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 4, 2, ' ', 0)
	fmt.Fprintln(out, Title)
	for _, one := range counts {
		fmt.Fprintf(out, "%s\t%d\n", one.Word, one.Times)
	}
	out.Flush()
	return text.String()
}
