//! Folders that a build gives back: the receiver's side of fsutil's protocol.
//!
//! The peer is not trusted. Every path is gone along from the folder's top, one name at a time and never through a link, so nothing outside
//! is written, whatever the peer puts there first. What stands where something else is to be is deleted, not written through.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustix::{
    fs::{self as sys, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags},
    io::Errno,
    path::Arg,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::{
    gopath::parent,
    packet::{Kind, Messages, Packet, framed, push, streamed, write_each},
    walk::mode,
};
use crate::{
    api::fsutil::Stat,
    session::{SessionBody, SessionResponse},
};

/// How many packets may wait to be written.
const QUEUE: usize = 64;
/// How long the peer may take to hear that it needn't send any more.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// How many files may be open at a time. BuildKit sends four at a time.
const OPEN: usize = 64;
/// How new files and folders are made until they are whole.
const PRIVATE: Mode = Mode::from_raw_mode(0o700);

/// What becomes of files in a folder that are not in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// They stay, but for what stands where something else is to be.
    Stay,
    /// They are deleted, once all of the result is there.
    Go,
}

/// Why a folder can't be written.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error("{} can't be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the peer sent {0:?}, which is no path in a folder")]
    Path(String),
    #[error("the peer sent {what} of file {id}, which was not asked for or is whole")]
    Unasked { what: &'static str, id: u32 },
    #[error("the peer sends more than {OPEN} files at a time")]
    TooMany,
    #[error("error from sender: {0}")]
    Peer(String),
    #[error("the transfer broke off")]
    Broken,
}

impl From<ReceiveError> for Status {
    fn from(error: ReceiveError) -> Self {
        Status::unknown(error.to_string())
    }
}

/// Receives a folder, and answers with requests for what is in it.
pub(super) fn begin(root: PathBuf, others: Others, body: SessionBody) -> SessionResponse {
    // Requests are few bytes for each file that the peer has described. If they waited for the peer, it might wait for us.
    let (outgoing, answers) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let gone = outgoing.clone();
        tokio::select! {
            () = receive(root, others, body, outgoing) => {}
            () = gone.closed() => {}
        }
    });
    streamed(UnboundedReceiverStream::new(answers))
}

type Outgoing = mpsc::UnboundedSender<Result<Bytes, Status>>;

async fn receive(root: PathBuf, others: Others, body: SessionBody, outgoing: Outgoing) {
    let mut messages = Messages::new(body);
    let answers = outgoing.clone();
    let write = move |packets| write(root, others, packets, &answers);
    let Err(status) = write_each(&mut messages, QUEUE, write).await else {
        return;
    };
    let _ = outgoing.send(Ok(framed(&Packet::error(status.message()))));
    // Until it has heard that the peer may send: if it couldn't, it would say that instead.
    let more = async { while let Ok(Some(Packet { .. })) = messages.next().await {} };
    let _ = tokio::time::timeout(HEARD_WITHIN, more).await;
    let _ = outgoing.send(Err(status));
}

/// Writes what comes until all of it is there and the peer knows. Blocks.
fn write(
    root: PathBuf,
    others: Others,
    mut packets: mpsc::Receiver<Packet>,
    outgoing: &Outgoing,
) -> Result<(), ReceiveError> {
    let mut folder = Folder::open(root, others)?;
    let mut answers = BytesMut::new();
    loop {
        let packet = packets.try_recv().ok().or_else(|| {
            // Nothing waits, so the peer may be waiting. If it has gone, nothing will come.
            if !answers.is_empty() {
                let _ = outgoing.send(Ok(answers.split().freeze()));
            }
            packets.blocking_recv()
        });
        let Some(packet) = packet else {
            // What is whole stays so if the peer doesn't say good-bye.
            return folder.finished.then_some(()).ok_or(ReceiveError::Broken);
        };
        match Kind::try_from(packet.kind) {
            Ok(Kind::Stat) => match packet.stat {
                Some(stat) => {
                    if let Some(id) = folder.described(stat)? {
                        let request = Packet {
                            id,
                            ..Packet::of(Kind::Request)
                        };
                        push(&mut answers, &request);
                    }
                }
                None => folder.all_described = true,
            },
            Ok(Kind::Data) => folder.data(packet.id, &packet.data)?,
            Ok(Kind::Error) => {
                let reason = String::from_utf8_lossy(&packet.data).into_owned();
                return Err(ReceiveError::Peer(reason));
            }
            Ok(Kind::Fin) if folder.finished => {
                let _ = outgoing.send(Ok(answers.freeze()));
                return Ok(());
            }
            Ok(Kind::Fin) => return Err(ReceiveError::Broken),
            _ => {}
        }
        if folder.is_whole() {
            folder.finish()?;
            push(&mut answers, &Packet::of(Kind::Fin));
        }
    }
}

/// A folder that is being written.
struct Folder {
    root: PathBuf,
    way: Way,
    next_id: u32,
    /// Files that were asked for and have not begun.
    asked: HashMap<u32, Stat>,
    open: HashMap<u32, (File, Stat)>,
    /// Further names of files, to be given when these are there.
    links: Vec<Stat>,
    /// Folders get their modes and times when all is in them, the inner ones first.
    folders: BTreeMap<String, Stat>,
    /// All that was described, if nothing else is to be left.
    described: Option<BTreeSet<String>>,
    all_described: bool,
    finished: bool,
}

impl Folder {
    fn open(root: PathBuf, others: Others) -> Result<Self, ReceiveError> {
        let opened = std::fs::create_dir_all(&root).and_then(|()| File::open(&root));
        let top = opened.map_err(|source| ReceiveError::Write {
            path: root.clone(),
            source,
        })?;
        Ok(Self {
            root,
            way: Way::from(OwnedFd::from(top)),
            next_id: 0,
            asked: HashMap::new(),
            open: HashMap::new(),
            links: Vec::new(),
            folders: BTreeMap::new(),
            described: (others == Others::Go).then(BTreeSet::new),
            all_described: false,
            finished: false,
        })
    }

    fn failed(&self, path: &str, error: Errno) -> ReceiveError {
        ReceiveError::Write {
            path: self.root.join(path),
            source: error.into(),
        }
    }

    fn is_whole(&self) -> bool {
        self.all_described && self.asked.is_empty() && self.open.is_empty() && !self.finished
    }

    /// Makes a file that has no content, or remembers it; the id to ask for if it has some.
    fn described(&mut self, stat: Stat) -> Result<Option<u32>, ReceiveError> {
        if !is_path(&stat.path) {
            return Err(ReceiveError::Path(stat.path));
        }
        if let Some(described) = &mut self.described {
            described.insert(stat.path.clone());
        }
        let id = self.next_id;
        self.next_id += 1;
        if mode::is_file(stat.mode) {
            if stat.linkname.is_empty() {
                self.asked.insert(id, stat);
                return Ok(Some(id));
            }
            if !is_path(&stat.linkname) {
                return Err(ReceiveError::Path(stat.linkname));
            }
            self.links.push(stat);
        } else if stat.mode & mode::DIR != 0 {
            self.make_folder(&stat.path)?;
            self.folders.insert(stat.path.clone(), stat);
        } else {
            self.make(&stat.path, |folder, name| special(folder, name, &stat))?;
        }
        Ok(None)
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), ReceiveError> {
        if let Some(stat) = self.asked.remove(&id) {
            if self.open.len() >= OPEN {
                return Err(ReceiveError::TooMany);
            }
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = self.make(&stat.path, |folder, name| {
                sys::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)
            })?;
            self.open.insert(id, (file.into(), stat));
        }
        let Some((file, stat)) = self.open.get_mut(&id) else {
            let what = if data.is_empty() { "the end" } else { "data" };
            return Err(ReceiveError::Unasked { what, id });
        };
        if let Err(source) = file.write_all(data) {
            let path = self.root.join(&stat.path);
            return Err(ReceiveError::Write { path, source });
        }
        if data.is_empty()
            && let Some((file, stat)) = self.open.remove(&id)
        {
            described_as(&file, &stat).map_err(|e| self.failed(&stat.path, e))?;
        }
        Ok(())
    }

    /// What is left when all content is there.
    fn finish(&mut self) -> Result<(), ReceiveError> {
        self.finished = true;
        let mut sources =
            Way::from(
                self.way
                    .top
                    .try_clone()
                    .map_err(|source| ReceiveError::Write {
                        path: self.root.clone(),
                        source,
                    })?,
            );
        for stat in std::mem::take(&mut self.links) {
            let source = sources.open(parent(&stat.linkname));
            let source = source.map_err(|e| self.failed(&stat.linkname, e))?;
            // No link is followed, so a link is linked itself.
            self.make(&stat.path, |folder, name| {
                let first = base(&stat.linkname);
                sys::linkat(source, first, folder, name, AtFlags::empty())
            })?;
        }
        if let Some(described) = self.described.take() {
            self.delete_all_but(&described)?;
        }
        while let Some((path, stat)) = self.folders.pop_last() {
            let folder = self.way.open(&path);
            let set = folder.and_then(|folder| described_as(folder, &stat));
            set.map_err(|e| self.failed(&path, e))?;
        }
        Ok(())
    }

    /// Deletes what is not among these and leads to none of them.
    fn delete_all_but(&mut self, kept: &BTreeSet<String>) -> Result<(), ReceiveError> {
        let mut folders = vec![String::new()];
        while let Some(path) = folders.pop() {
            let names = self.way.open(&path).and_then(names);
            for name in names.map_err(|e| self.failed(&path, e))? {
                let below = name.to_str().map(|name| match path.as_str() {
                    "" => name.to_owned(),
                    path => format!("{path}/{name}"),
                });
                let stays = below.filter(|below| is_kept(kept, below));
                let place = self.root.join(&path).join(&name);
                let within = self.way.open(&path);
                let done = within.and_then(|folder| match stays {
                    None => remove(folder, &name, &place),
                    Some(below) => {
                        let is_folder = kind(folder, &name)? == Some(FileType::Directory);
                        folders.extend(is_folder.then_some(below));
                        Ok(())
                    }
                });
                done.map_err(|e| self.failed(&path, e))?;
            }
        }
        Ok(())
    }

    /// Makes something in place of whatever has its name.
    fn make<T>(
        &mut self,
        path: &str,
        make: impl Fn(&OwnedFd, &str) -> Result<T, Errno>,
    ) -> Result<T, ReceiveError> {
        let made = self.way.open(parent(path)).and_then(|folder| {
            let name = base(path);
            match make(folder, name) {
                Err(Errno::EXIST) => {
                    remove(folder, name, &self.root.join(path))?;
                    make(folder, name)
                }
                made => made,
            }
        });
        made.map_err(|e| self.failed(path, e))
    }

    /// Makes a folder, unless it is there.
    fn make_folder(&mut self, path: &str) -> Result<(), ReceiveError> {
        let folder = self.way.open(parent(path));
        let found = folder.and_then(|folder| kind(folder, base(path)));
        match found.map_err(|e| self.failed(path, e))? {
            Some(FileType::Directory) => Ok(()),
            _ => self.make(path, |folder, name| sys::mkdirat(folder, name, PRIVATE)),
        }
    }
}

/// Folders below a top that are open, each in the one before it. What comes next is mostly in one of them.
struct Way {
    top: OwnedFd,
    folders: Vec<(String, OwnedFd)>,
}

impl From<OwnedFd> for Way {
    fn from(top: OwnedFd) -> Self {
        let folders = Vec::new();
        Self { top, folders }
    }
}

impl Way {
    /// Opens a folder, going through no link; empty for the top.
    fn open(&mut self, path: &str) -> Result<&OwnedFd, Errno> {
        let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
        let known = self.folders.iter().zip(&names);
        let known = known.take_while(|((open, _), name)| open == *name).count();
        self.folders.truncate(known);
        for name in &names[known..] {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let within = self.folders.last().map_or(&self.top, |(_, folder)| folder);
            let folder = sys::openat(within, *name, flags, Mode::empty())?;
            self.folders.push(((*name).to_owned(), folder));
        }
        Ok(self.folders.last().map_or(&self.top, |(_, folder)| folder))
    }
}

/// A path that leads from a folder to something in it, by names alone.
fn is_path(path: &str) -> bool {
    path.split('/')
        .all(|name| !matches!(name, "" | "." | "..") && !name.contains('\0'))
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether a path is among these or on the way to one of them.
fn is_kept(kept: &BTreeSet<String>, path: &str) -> bool {
    let below = format!("{path}/");
    kept.contains(path)
        || kept
            .range(below.clone()..)
            .next()
            .is_some_and(|next| next.starts_with(&below))
}

/// All that is in a folder.
fn names(folder: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in sys::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

/// What has this name in a folder.
fn kind(folder: &OwnedFd, name: impl Arg) -> Result<Option<FileType>, Errno> {
    match sys::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Deletes what has this name in a folder, whose path is `path`.
fn remove(folder: &OwnedFd, name: impl Arg + Copy, path: &Path) -> Result<(), Errno> {
    match kind(folder, name)? {
        Some(FileType::Directory) => {
            std::fs::remove_dir_all(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        }
        Some(_) => sys::unlinkat(folder, name, AtFlags::empty()),
        None => Ok(()),
    }
}

/// Makes what is neither a file with content nor a folder.
fn special(folder: &OwnedFd, name: &str, stat: &Stat) -> Result<(), Errno> {
    if stat.mode & mode::SYMLINK != 0 {
        sys::symlinkat(stat.linkname.as_str(), folder, name)?;
        return sys::utimensat(folder, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW);
    }
    let kind = if stat.mode & mode::CHAR != 0 {
        FileType::CharacterDevice
    } else if stat.mode & mode::PIPE != 0 {
        FileType::Fifo
    } else if stat.mode & mode::DEVICE != 0 {
        FileType::BlockDevice
    } else {
        return Err(Errno::NOTSUP);
    };
    let number = |part| u32::try_from(part).map_err(|_| Errno::INVAL);
    let device = sys::makedev(number(stat.devmajor)?, number(stat.devminor)?);
    sys::mknodat(folder, name, kind, unix_mode(stat.mode), device)?;
    sys::chmodat(folder, name, unix_mode(stat.mode), AtFlags::empty())?;
    sys::utimensat(folder, name, &times(stat), AtFlags::empty())
}

/// Gives a file or folder the attributes, mode and time that it has in the result. It stays the user's own, as with buildx.
fn described_as(file: impl AsFd, stat: &Stat) -> Result<(), Errno> {
    for (name, value) in &stat.xattrs {
        // Not every file system has every attribute, and not every user may set it.
        let _ = sys::fsetxattr(&file, name, value, XattrFlags::empty());
    }
    sys::fchmod(&file, unix_mode(stat.mode))?;
    sys::futimens(&file, &times(stat))
}

fn unix_mode(go: u32) -> Mode {
    let mut bits = go & mode::PERMISSIONS;
    for (go_bit, bit) in [
        (mode::SETUID, 0o4000),
        (mode::SETGID, 0o2000),
        (mode::STICKY, 0o1000),
    ] {
        if go & go_bit != 0 {
            bits |= bit;
        }
    }
    Mode::from_raw_mode(bits)
}

fn times(stat: &Stat) -> Timestamps {
    const SECOND: i64 = 1_000_000_000;
    let time = Timespec {
        tv_sec: stat.mod_time.div_euclid(SECOND),
        tv_nsec: stat.mod_time.rem_euclid(SECOND),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests;
