// Report counts the words of what it is given, prints them as a table, and serves them if it is told where.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"

	"croft.example/report/internal/table"
	"croft.example/report/internal/web"
	"croft.example/report/internal/words"
)

// edition is set when this is linked, so that no two builds make the same program.
var edition string

func main() {
	address := flag.String("serve", "", "serve the counts here instead of printing them")
	version := flag.Bool("version", false, "print the edition and nothing else")
	flag.Parse()
	if *version {
		fmt.Println(edition)
		return
	}
	counts, err := words.Count(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	if *address != "" {
		log.Fatal(http.ListenAndServe(*address, web.Handler(counts)))
	}
	fmt.Print(table.Format(counts))
}
