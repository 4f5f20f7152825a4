//! A tar file (ustar) whose bytes depend on nothing but what is put in: one time, owner root, no names of users.

/// A tar file in the making.
#[derive(Debug)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
    seconds: u64,
}

const BLOCK: usize = 512;

impl Tar {
    /// All entries will say that they were changed `seconds` after 1970.
    pub fn new(seconds: u64) -> Self {
        Self {
            bytes: Vec::new(),
            seconds,
        }
    }

    pub fn folder(&mut self, path: &str, mode: u32) {
        self.entry(&format!("{path}/"), mode, b'5', "", &[]);
    }

    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, mode, b'0', "", content);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entry(path, 0o777, b'2', target, &[]);
    }

    /// The file's bytes: the entries and two empty blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// `path` and `target` have at most 100 bytes: what is longer is cut, as the header has no room for it.
    fn entry(&mut self, path: &str, mode: u32, kind: u8, target: &str, content: &[u8]) {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, room: usize, text: &str| {
            let length = text.len().min(room);
            header[at..at + length].copy_from_slice(&text.as_bytes()[..length]);
        };
        put(0, 100, path);
        put(100, 8, &format!("{mode:07o}"));
        put(108, 8, "0000000");
        put(116, 8, "0000000");
        put(124, 12, &format!("{:011o}", content.len()));
        put(136, 12, &format!("{:011o}", self.seconds));
        put(148, 8, "        ");
        put(157, 100, target);
        put(257, 8, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_systems_tar_unpacks_what_was_put_in() {
        let folder = tempfile::tempdir().unwrap();
        let mut tar = Tar::new(1_704_067_200);
        tar.folder("bin", 0o755);
        tar.file("bin/tool", 0o755, b"content");
        tar.link("bin/alias", "/bin/tool");
        let path = folder.path().join("x.tar");
        std::fs::write(&path, tar.finish()).unwrap();
        let status = std::process::Command::new("tar")
            .arg("-xpf")
            .arg(&path)
            .arg("-C")
            .arg(folder.path())
            .status();
        assert!(status.unwrap().success());
        assert_eq!(
            std::fs::read(folder.path().join("bin/tool")).unwrap(),
            b"content"
        );
        assert_eq!(
            std::fs::read_link(folder.path().join("bin/alias"))
                .unwrap()
                .to_str(),
            Some("/bin/tool")
        );
        let about = folder.path().join("bin/tool").metadata().unwrap();
        assert_eq!(about.permissions().mode() & 0o7777, 0o755);
        assert_eq!(
            about
                .modified()
                .unwrap()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
            1_704_067_200
        );
    }
}
