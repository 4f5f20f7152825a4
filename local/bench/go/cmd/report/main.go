// Report counts the words of what it is given, and prints them as a table, as JSON or as a web page.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"

	"croft.example/report/internal/page"
	"croft.example/report/internal/table"
	"croft.example/report/internal/words"
)

// edition is set when this is linked, so that no two builds make the same program.
var edition string

func main() {
	format := flag.String("format", "table", "table, json, html or edition")
	flag.Parse()
	counts, err := words.Count(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	switch *format {
	case "json":
		err = page.JSON(os.Stdout, counts)
	case "html":
		err = page.HTML(os.Stdout, counts)
	case "edition":
		fmt.Println(edition)
	default:
		fmt.Print(table.Format(counts))
	}
	if err != nil {
		log.Fatal(err)
	}
}
