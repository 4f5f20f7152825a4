//! The store embeds the migrations: a new one must make the compiler look again.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
