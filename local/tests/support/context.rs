//! Build contexts in folders of their own, and nonces that make sure that no old cache helps.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

/// A word that no build has used before.
pub fn nonce() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("n{now:x}p{:x}x{next:x}", std::process::id())
}

/// A folder with a Dockerfile; gone when this is dropped.
#[derive(Debug)]
pub struct Context {
    folder: TempDir,
    /// Stands in the Dockerfile wherever `$NONCE` was written.
    pub nonce: String,
}

impl Context {
    /// A context with only a Dockerfile, in which `$NONCE` is replaced by a new nonce.
    pub fn new(dockerfile: &str) -> Context {
        Context::with_nonce(dockerfile, &nonce())
    }

    /// The same with a nonce that was used before.
    pub fn with_nonce(dockerfile: &str, nonce: &str) -> Context {
        let context = Context {
            folder: tempfile::tempdir().expect("a temporary folder"),
            nonce: nonce.to_owned(),
        };
        context.file("Dockerfile", &dockerfile.replace("$NONCE", nonce))
    }

    /// Writes a file, and the folders above it.
    pub fn file(self, path: &str, text: &str) -> Context {
        self.write(path, text.as_bytes());
        self
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("below the context")).expect("writable");
        fs::write(path, bytes).expect("writable");
    }

    /// Makes a file of that many zeros, which takes no room on the disk.
    pub fn zeros(self, path: &str, bytes: u64) -> Context {
        self.write(path, b"");
        let file = fs::File::options().write(true).open(self.path().join(path));
        file.expect("just written")
            .set_len(bytes)
            .expect("a sparse file");
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
