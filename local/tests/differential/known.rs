//! What surely is in a stage or a context while a Dockerfile is made up, so that its instructions name what exists. What isn't sure is
//! left out: a wrong guess would only make a build fail, on both sides.

/// Something that exists.
#[derive(Debug, Clone)]
pub struct Thing {
    /// Absolute, without a slash at the end.
    pub path: String,
    pub kind: Kind,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A symbolic link, and the absolute path of the file or folder that it leads to.
    Link(String),
    /// What can't be read: pipes, devices, links to nothing.
    Other,
}

/// All that surely exists in one place.
#[derive(Debug, Clone, Default)]
pub struct Known(Vec<Thing>);

impl Known {
    /// This is there now, and the folders above it.
    pub fn add(&mut self, path: &str, kind: Kind) {
        if let Some((above, _)) = path.rsplit_once('/')
            && !above.is_empty()
            && self.find(above).is_none()
        {
            self.add(above, Kind::Folder);
        }
        if self.find(path).is_none() {
            self.0.push(Thing {
                path: path.to_owned(),
                kind,
            });
        }
    }

    /// This is no longer sure, nor what is below it or leads there.
    pub fn forget(&mut self, path: &str) {
        let leads_there = |thing: &Thing| match &thing.kind {
            Kind::Link(target) => is_within(target, path) && !is_within(&thing.path, path),
            _ => false,
        };
        let links: Vec<_> = self
            .0
            .iter()
            .filter(|thing| leads_there(thing))
            .map(|thing| thing.path.clone())
            .collect();
        self.0.retain(|thing| !is_within(&thing.path, path));
        for link in links {
            self.forget(&link);
        }
    }

    /// What is at a path.
    pub fn find(&self, path: &str) -> Option<&Thing> {
        self.0.iter().find(|thing| thing.path == path)
    }

    /// Where a path leads: itself, unless it is a link.
    pub fn resolve<'a>(&'a self, path: &'a str) -> &'a str {
        match self.find(path).map(|thing| &thing.kind) {
            Some(Kind::Link(target)) => target,
            _ => path,
        }
    }

    /// Whether a path is a folder or leads to one.
    pub fn is_folder(&self, path: &str) -> bool {
        self.find(self.resolve(path))
            .is_some_and(|thing| thing.kind == Kind::Folder)
    }

    /// Files and links to files.
    pub fn files(&self) -> Vec<String> {
        self.paths(|thing| {
            let target = self.find(self.resolve(&thing.path));
            target.is_some_and(|thing| thing.kind == Kind::File)
        })
    }

    /// Folders and links to folders.
    pub fn folders(&self) -> Vec<String> {
        self.paths(|thing| self.is_folder(&thing.path))
    }

    /// What a folder (no link) contains, at any depth.
    pub fn below(&self, folder: &str) -> Vec<Thing> {
        let within = |thing: &&Thing| thing.path != folder && is_within(&thing.path, folder);
        self.0.iter().filter(within).cloned().collect()
    }

    /// What was in `folder` is in `place` too, as copying makes it: links within lead to the copy, others may lead nowhere.
    pub fn graft(&mut self, things: &[Thing], folder: &str, place: &str) {
        self.add(place, Kind::Folder);
        let moved = |path: &str| format!("{place}{}", &path[folder.len()..]);
        for thing in things {
            let kind = match &thing.kind {
                // Only what is told from where the link itself is leads to the copy.
                Kind::Link(target)
                    if is_within(target, folder) && !thing.path.ends_with("-abs") =>
                {
                    Kind::Link(moved(target))
                }
                Kind::Link(_) => Kind::Other,
                kind => kind.clone(),
            };
            self.add(&moved(&thing.path), kind);
        }
    }

    fn paths(&self, wanted: impl Fn(&Thing) -> bool) -> Vec<String> {
        self.0
            .iter()
            .filter(|thing| wanted(thing))
            .map(|thing| thing.path.clone())
            .collect()
    }
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
