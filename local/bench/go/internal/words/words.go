// Package words counts words.
package words

import (
	"bufio"
	"cmp"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Counted is a word and how often it was there.
type Counted struct {
	Word  string `json:"word"`
	Times int    `json:"times"`
}

var word = regexp.MustCompile(`\pL+`)

// Count gives the words of a text, the most frequent first.
func Count(text io.Reader) ([]Counted, error) {
	times := map[string]int{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		for _, one := range word.FindAllString(lines.Text(), -1) {
			times[strings.ToLower(one)]++
		}
	}
	counts := make([]Counted, 0, len(times))
	for one, n := range times {
		counts = append(counts, Counted{one, n})
	}
	slices.SortFunc(counts, func(a, b Counted) int {
		return cmp.Or(cmp.Compare(b.Times, a.Times), strings.Compare(a.Word, b.Word))
	})
	return counts, lines.Err()
}
