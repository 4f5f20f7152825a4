//! What becomes of a build's results: the exporters that a client names, read.
//!
//! Pure. How an image looks is [`super::image`]'s, handing out [`super::deliver`]'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::image::{ImageOutput, OutputError, Shape};

/// Outputs of one build.
pub(super) const MAX_EXPORTERS: usize = 32;
/// What an engine hands to a client: the types that all clients and engines know.
const HANDED_OUT: [&str; 4] = ["local", "tar", "oci", "docker"];
/// With these attributes an engine compresses layers.
const COMPRESSION: [&str; 2] = ["compression", "compression-level"];

/// What becomes of a build's results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outputs {
    /// Nothing leaves the farm: the results stay in the engines' caches.
    Keep,
    /// Images and their index go to registries.
    Image(ImageOutput),
    /// The client gets them through its session, and registries too if there is an image.
    Deliver {
        /// What the client gets.
        delivery: Delivery,
        /// What registries get.
        image: Option<ImageOutput>,
    },
}

/// What a client gets through its session, composed by one agent's engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// In the client's order.
    pub exporters: Vec<Exporter>,
    /// Where among the client's exporters the image for registries is.
    image_at: Option<usize>,
}

/// An exporter of an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exporter {
    /// Its place among the client's exporters, by which the client knows what it is sent.
    pub place: usize,
    /// `local`, `tar`, `oci` or `docker`.
    pub kind: String,
    /// As the client gave them.
    pub attrs: BTreeMap<String, String>,
}

impl Exporter {
    /// Whether it makes images.
    pub fn makes_images(&self) -> bool {
        matches!(self.kind.as_str(), "oci" | "docker")
    }

    /// Whether its image goes to the client blob by blob, into a layout, rather than as an archive.
    pub fn fills_layout(&self) -> bool {
        let tar = self.attrs.get("tar").map(String::as_str);
        self.makes_images() && matches!(tar, Some("0" | "f" | "F" | "false" | "FALSE" | "False"))
    }

    /// Whether the client's folder is to have nothing else in it than the result.
    pub fn deletes(&self) -> bool {
        let mode = self.attrs.get("mode").map_or("", |mode| mode.trim());
        self.kind == "local" && mode.eq_ignore_ascii_case("delete")
    }

    /// Whether what it sends can be sent once more, as the client puts each file in the place of the one before. An archive would be
    /// written behind what came of it before.
    pub fn is_repeatable(&self) -> bool {
        self.kind == "local"
    }
}

impl Delivery {
    /// Whether any of it is an image.
    pub fn has_images(&self) -> bool {
        self.exporters.iter().any(Exporter::makes_images)
    }

    /// What the client is told of all exporters: as in one engine, of what several say the last one's word counts.
    pub fn with_image(
        &self,
        mut delivered: BTreeMap<String, String>,
        image: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let later = |exporter: &Exporter| {
            exporter.makes_images() && self.image_at.is_some_and(|at| at < exporter.place)
        };
        if self.exporters.iter().any(later) {
            let mut all = image;
            all.extend(delivered);
            return all;
        }
        delivered.extend(image);
        delivered
    }

    /// Checks what only the results' shape tells, as engines do, but before anything runs.
    pub fn check(&self, shape: Shape) -> Result<(), OutputError> {
        let docker = self.exporters.iter().any(|one| one.kind == "docker");
        match shape {
            Shape::Index if docker => Err(OutputError::DockerIndex),
            Shape::Index | Shape::Bare => Ok(()),
        }
    }
}

impl Outputs {
    /// Reads the exporters of a solve, each a type with its attributes.
    pub fn parse(exporters: &[(String, BTreeMap<String, String>)]) -> Result<Self, OutputError> {
        if exporters.len() > MAX_EXPORTERS {
            return Err(OutputError::TooMany(MAX_EXPORTERS));
        }
        let mut image = None;
        let mut delivery = Delivery {
            exporters: Vec::new(),
            image_at: None,
        };
        for (place, (kind, attrs)) in exporters.iter().enumerate() {
            match kind.as_str() {
                "image" if image.is_some() => return Err(OutputError::SeveralImages),
                "image" => {
                    image = Some(ImageOutput::parse(attrs)?);
                    delivery.image_at = Some(place);
                }
                kind if HANDED_OUT.contains(&kind) => delivery.exporters.push(Exporter {
                    place,
                    kind: kind.to_owned(),
                    attrs: attrs.clone(),
                }),
                other => return Err(OutputError::Unsupported(other.to_owned())),
            }
        }
        Ok(match (image, delivery.exporters.is_empty()) {
            (None, true) => Outputs::Keep,
            (Some(image), true) => Outputs::Image(image),
            (image, false) => Outputs::Deliver { delivery, image },
        })
    }

    /// What registries get.
    pub fn image(&self) -> Option<&ImageOutput> {
        match self {
            Outputs::Keep => None,
            Outputs::Image(image) => Some(image),
            Outputs::Deliver { image, .. } => image.as_ref(),
        }
    }

    /// What the client gets.
    pub fn delivery(&self) -> Option<&Delivery> {
        match self {
            Outputs::Keep | Outputs::Image(_) => None,
            Outputs::Deliver { delivery, .. } => Some(delivery),
        }
    }

    /// The attributes that say how layers are to be compressed, by the first output that has any: layers are compressed once.
    pub fn compression(&self) -> BTreeMap<String, String> {
        let image = self.image().into_iter().map(ImageOutput::attrs);
        let delivery = self.delivery().into_iter().flat_map(|d| &d.exporters);
        let delivered = delivery.filter(|e| e.makes_images()).map(|e| &e.attrs);
        image
            .chain(delivered)
            .next()
            .map_or_else(BTreeMap::new, |attrs| {
                let attrs = attrs.iter();
                attrs
                    .filter(|(key, _)| COMPRESSION.contains(&key.as_str()))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn parse(list: &[(&str, &[(&str, &str)])]) -> Result<Outputs, OutputError> {
        let list: Vec<_> = list
            .iter()
            .map(|(kind, list)| ((*kind).to_owned(), attrs(list)))
            .collect();
        Outputs::parse(&list)
    }

    const PUSH: (&str, &[(&str, &str)]) = ("image", &[("name", "r.io/a"), ("push", "true")]);

    #[test]
    fn each_output_keeps_the_place_by_which_its_client_knows_it() {
        let outputs = parse(&[("tar", &[]), PUSH, ("oci", &[("name", "a")])]).unwrap();
        let exporters = outputs.delivery().unwrap().exporters.iter();
        let places: Vec<_> = exporters
            .map(|one| (one.place, one.kind.as_str()))
            .collect();
        assert_eq!(places, [(0, "tar"), (2, "oci")]);
        assert_eq!(outputs.image().unwrap().names, "r.io/a");
        assert_eq!(parse(&[]).unwrap(), Outputs::Keep);
        assert!(matches!(parse(&[PUSH]).unwrap(), Outputs::Image(_)));
    }

    #[test]
    fn of_what_several_outputs_say_the_last_one_counts() {
        let told = |list: &[(&str, &[(&str, &str)])]| {
            let outputs = parse(list).unwrap();
            let both = outputs.delivery().unwrap().with_image(
                attrs(&[("containerimage.digest", "delivered"), ("d", "")]),
                attrs(&[("containerimage.digest", "pushed"), ("p", "")]),
            );
            assert!(both.contains_key("d") && both.contains_key("p"));
            both["containerimage.digest"].clone()
        };
        assert_eq!(told(&[PUSH, ("oci", &[])]), "delivered");
        assert_eq!(told(&[("oci", &[]), PUSH, ("local", &[])]), "pushed");
    }

    #[test]
    fn layers_are_compressed_as_the_first_output_with_layers_says() {
        let zstd: &[(&str, &str)] = &[("compression", "zstd"), ("dest", "x")];
        let outputs = parse(&[("local", &[]), ("oci", zstd), ("docker", &[])]).unwrap();
        assert_eq!(outputs.compression(), attrs(&[("compression", "zstd")]));
        let outputs = parse(&[("oci", zstd), PUSH]).unwrap();
        assert_eq!(outputs.compression(), attrs(&[]));
    }

    #[test]
    fn what_the_farm_cannot_do_is_refused_with_what_to_do_instead() {
        let refused = |list: &[(&str, &[(&str, &str)])]| parse(list).unwrap_err().to_string();
        assert!(refused(&[("moby", &[])]).contains("oci"));
        assert!(refused(&[PUSH, PUSH]).contains("one"));
        let many = vec![("local", &[][..]); MAX_EXPORTERS + 1];
        assert!(refused(&many).contains("32"));
        let docker = parse(&[("docker", &[])]).unwrap();
        let check = |shape| docker.delivery().unwrap().check(shape);
        assert!(check(Shape::Bare).is_ok());
        assert!(check(Shape::Index).is_err());
    }

    #[test]
    fn what_is_stored_of_outputs_reads_back() {
        let outputs = parse(&[PUSH, ("oci", &[("name", "a")])]).unwrap();
        let json = serde_json::to_string(&outputs).unwrap();
        assert_eq!(serde_json::from_str::<Outputs>(&json).unwrap(), outputs);
    }
}
