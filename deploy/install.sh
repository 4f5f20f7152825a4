#!/bin/sh
# Installs those of croft's programs that a folder has, `croft` at least, with completions for bash, zsh and fish and a man page for each
# command. They go below $PREFIX (/usr/local if it says nothing), and that below $DESTDIR, for those who make packages.
set -eu

programs=${1:?"say where the programs are: deploy/install.sh FOLDER, for instance target/release"}
prefix=${DESTDIR:-}${PREFIX:-/usr/local}
croft=$programs/croft

for name in croft croft-coordinator croft-agent; do
	[ ! -e "$programs/$name" ] || install -D -m 755 "$programs/$name" "$prefix/bin/$name"
done

completion() {
	install -d "$(dirname "$2")"
	"$croft" completion "$1" >"$2"
}
completion bash "$prefix/share/bash-completion/completions/croft"
completion zsh "$prefix/share/zsh/site-functions/_croft"
completion fish "$prefix/share/fish/vendor_completions.d/croft.fish"

install -d "$prefix/share/man/man1"
"$croft" man "$prefix/share/man/man1"
