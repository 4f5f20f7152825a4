//! The flags of `croft build`: those of `docker buildx build`, with the same meanings. What they come to is `request`'s business.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

const EXIT_CODES: &str = "\
Progress goes to standard error; an image's id (--quiet), an archive (--output - or dest=-) and a report (--call) to standard output.

Ctrl-C cancels the build at the farm; a second one does not wait for that.

Exit codes:
  0    built
  1    the build failed, a check found something, or something here kept it from running
  2    the command line is wrong
  4    the farm cannot be reached
  130  cancelled by Ctrl-C

Registry credentials are those of `docker login` and `podman login`: the files that REGISTRY_AUTH_FILE and DOCKER_CONFIG name, then \
~/.docker/config.json, $XDG_RUNTIME_DIR/containers/auth.json and ~/.config/containers/auth.json, and the helpers that these name. The \
first that knows the registry counts.";

/// What is built, how, and where it goes.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = EXIT_CODES)]
pub struct BuildFlags {
    /// The context: a folder, a git repository, a URL of a tar archive or a Dockerfile, or - for either on standard input
    // The farms that the configuration names are contexts too, and --context is one of those.
    #[arg(id = "source", value_name = "PATH|URL|-")]
    pub context: String,

    /// Map a host to an address in RUN's containers, as host:ip or host=ip; may be given several times
    #[arg(
        long,
        value_name = "HOST:IP",
        value_delimiter = ',',
        help_heading = "Steps"
    )]
    pub add_host: Vec<String>,
    /// Grant an entitlement (network.host, security.insecure, device), as far as the farm's agents allow it; may be given several times
    #[arg(long, value_name = "ENTITLEMENT", help_heading = "Steps")]
    pub allow: Vec<String>,
    /// Add an annotation to the image, as key=value, or manifest:key=value, index:key=value, manifest[linux/amd64]:key=value and the like;
    /// may be given several times
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Result")]
    pub annotation: Vec<String>,
    /// Attach an attestation, as type=sbom or type=provenance with options; may be given several times
    #[arg(long, value_name = "TYPE=…", help_heading = "Result")]
    pub attest: Vec<String>,
    /// Set a build argument, as name=value, or name to take it from the environment; may be given several times
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "Build")]
    pub build_arg: Vec<String>,
    /// Add a named context, as name=folder, name=docker-image://image, name=oci-layout://folder[:tag|@digest], name=git or http URL; may
    /// be given several times
    #[arg(long, value_name = "NAME=SOURCE", help_heading = "Build")]
    pub build_context: Vec<String>,
    /// Look for cache there too, as an image or type=registry,ref=image or type=local,src=folder; may be given several times
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_from: Vec<String>,
    /// Export the cache, as an image or type=…; a farm whose agents keep their caches refuses it
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub cache_to: Vec<String>,
    /// Ask the frontend instead of building: check the Dockerfile, print its outline, or list its targets; json with `,format=json`
    #[arg(
        long,
        value_name = "build|check|outline|targets",
        help_heading = "Build"
    )]
    pub call: Option<String>,
    /// The same as --call=check
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = truth,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        action = ArgAction::Set,
        help_heading = "Build"
    )]
    pub check: bool,
    /// Put RUN's containers under this control group
    #[arg(long, value_name = "GROUP", help_heading = "Steps")]
    pub cgroup_parent: Option<String>,
    /// The Dockerfile, from where the command is run; - for standard input [default: Dockerfile in the context]
    #[arg(long, short = 'f', value_name = "FILE|-", help_heading = "Build")]
    pub file: Option<String>,
    /// Write the image's id into this file
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub iidfile: Option<PathBuf>,
    /// Add a label to the image, as key=value; may be given several times
    #[arg(long, value_name = "KEY[=VALUE]", help_heading = "Result")]
    pub label: Vec<String>,
    /// Load the image into the Docker or Podman of this machine: the same as --output=type=docker
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = truth,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        action = ArgAction::Set,
        help_heading = "Result"
    )]
    pub load: bool,
    /// Write what is known of the result into this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub metadata_file: Option<PathBuf>,
    /// The network of RUN's containers: default, none, or host (if the farm's agents allow it)
    #[arg(long, value_name = "MODE", help_heading = "Steps")]
    pub network: Option<String>,
    /// Run everything again, whatever is in the cache
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = truth,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        action = ArgAction::Set,
        help_heading = "Cache"
    )]
    pub no_cache: bool,
    /// Run these stages of the Dockerfile again; may be given several times
    #[arg(long, value_name = "STAGE", help_heading = "Cache")]
    pub no_cache_filter: Vec<String>,
    /// Where the result goes, as type=registry|image|local|tar|oci|docker with options such as dest=…, or just a folder, or - for a tar
    /// archive on standard output; may be given several times
    #[arg(long, short = 'o', value_name = "OUTPUT", help_heading = "Result")]
    pub output: Vec<String>,
    /// Build for these platforms, as linux/amd64,linux/arm64; may be given several times
    #[arg(long, value_name = "PLATFORM", help_heading = "Build")]
    pub platform: Vec<String>,
    /// How progress is shown
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        env = "BUILDKIT_PROGRESS",
        hide_env = true,
        default_value_t = Mode::Auto,
        help_heading = "Progress"
    )]
    pub progress: Mode,
    /// Attach a provenance attestation: the same as --attest=type=provenance
    #[arg(long, value_name = "BOOL|OPTIONS", help_heading = "Result")]
    pub provenance: Option<String>,
    /// Look up base images in their registries even where the farm has them
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = truth,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        action = ArgAction::Set,
        help_heading = "Cache"
    )]
    pub pull: bool,
    /// Push the image under its tags: the same as --output=type=registry
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = truth,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        action = ArgAction::Set,
        help_heading = "Result"
    )]
    pub push: bool,
    /// Show no progress, and print the image's id: the same as --progress=quiet
    #[arg(
        long,
        short = 'q',
        value_name = "BOOL",
        value_parser = truth,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        action = ArgAction::Set,
        help_heading = "Progress"
    )]
    pub quiet: bool,
    /// Attach an SBOM attestation: the same as --attest=type=sbom
    #[arg(long, value_name = "BOOL|OPTIONS", help_heading = "Result")]
    pub sbom: Option<String>,
    /// Give a secret to steps that ask for it, as id=name[,src=file] or id=name,env=VARIABLE; may be given several times
    #[arg(long, value_name = "id=NAME[,…]", help_heading = "Steps")]
    pub secret: Vec<String>,
    /// The size of /dev/shm in RUN's containers, as 64m
    #[arg(long, value_name = "BYTES", help_heading = "Steps")]
    pub shm_size: Option<String>,
    /// Let steps use an SSH agent, as default for your own, or id=socket, or a key in a file, as id=file; may be given several times
    #[arg(long, value_name = "default|ID[=SOCKET]", help_heading = "Steps")]
    pub ssh: Vec<String>,
    /// The image's name, as [registry/]repository[:tag]; may be given several times
    #[arg(long, short = 't', value_name = "NAME", help_heading = "Result")]
    pub tag: Vec<String>,
    /// Build this stage of the Dockerfile instead of the last
    #[arg(long, value_name = "STAGE", help_heading = "Build")]
    pub target: Option<String>,
    /// Limit RUN's processes, as nofile=1024[:2048]; may be given several times
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Steps")]
    pub ulimit: Vec<String>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A live display on a terminal, else plain
    #[default]
    Auto,
    /// Line by line, each step with its number
    Plain,
    /// A live display, even if it is no terminal that is written to
    Tty,
    /// BuildKit's own status messages, one JSON object per line
    #[value(alias = "rawjson")]
    Json,
    /// None, and the image's id on standard output
    Quiet,
    /// None at all
    None,
}

/// A boolean as Go's programs take it.
fn truth(text: &str) -> Result<bool, String> {
    super::words::truth(text).ok_or_else(|| "write true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: BuildFlags,
    }

    fn read(words: &[&str]) -> Result<BuildFlags, clap::Error> {
        let line = std::iter::once("build").chain(words.iter().copied());
        Line::try_parse_from(line).map(|line| line.flags)
    }

    #[test]
    fn switches_are_switches_and_take_a_value_after_an_equals_sign_alone() {
        let flags = read(&["--push", "--pull=true", "--no-cache=0", "--load=F", "."]).unwrap();
        assert_eq!(
            (flags.push, flags.pull, flags.no_cache, flags.load),
            (true, true, false, false)
        );
        assert_eq!(flags.context, ".");
        assert!(read(&["--push=maybe", "."]).is_err());
    }

    #[test]
    fn buildx_s_name_for_json_is_taken_and_what_is_not_known_is_refused() {
        assert_eq!(
            read(&["--progress=rawjson", "."]).unwrap().progress,
            Mode::Json
        );
        for unknown in ["--squash", "--memory=1g", "--isolation=x", "--resource=a=b"] {
            assert!(read(&[unknown, "."]).is_err(), "{unknown}");
        }
        assert!(read(&[]).is_err());
    }
}
