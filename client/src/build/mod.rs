//! `croft build`: builds on a farm as `docker buildx build` does, without Docker.
//!
//! `flags` are read into a `request`, which speaks BuildKit's language; a `session` shares with the farm what the request needs, with the
//! user's `credentials`; `solve` sends it and follows it, shown by `progress`; `outcome` is what stays here. A build that fails is
//! explained by `failure`. It goes the way that every other client goes: BuildKit's Control, Session and LLBBridge.

pub mod credentials;
pub mod error;
mod failure;
pub mod flags;
mod foresee;
mod layout;
mod load;
mod outcome;
mod place;
pub(crate) mod progress;
pub mod request;
pub mod session;
mod solve;
mod words;

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    sync::Arc,
};

use croft_buildkit::session::serve::Output;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::{
    credentials::Registries,
    error::BuildError,
    failure::Failure,
    flags::{BuildFlags, Mode},
    load::Loading,
    outcome::Response,
    progress::Progress,
    request::{Destination, Question, Request, StandardOutput, Surroundings},
    session::Session,
    solve::Farm,
};
use crate::{
    call::Call,
    error::{Error, Exit},
};

impl BuildFlags {
    pub(crate) async fn run(self, call: &Call) -> Result<(), Error> {
        let mode = self.mode()?;
        let registries = Arc::new(Registries::of(&environment()));
        let mut request = read(&self, &registries)?;
        // Not sooner: what is read may be standard input, where nothing may ever come.
        let stop = on_interrupt()?;
        if let Some(file) = &self.iidfile {
            outcome::forget(file)?;
        }
        let loads = loaders(&mut request)?;
        let connection = unless_stopped(&stop, call.connect()).await?;
        let mut progress = Progress::new(mode);
        let running = Running {
            flags: &self,
            call,
            farm: Farm::new(connection.channel()),
            stop,
        };
        let reference = request.reference.to_string();
        let done = running
            .run(request, loads, registries, connection, &mut progress)
            .await;
        match done {
            Ok(Done::Answered(answer, question)) => {
                progress.finish(&[]);
                self.print_answer(call, &answer, &question)
            }
            Ok(Done::Built(response, said)) => {
                for line in said.iter().flat_map(|said| said.lines()) {
                    progress.say(line);
                }
                progress.finish(&[]);
                self.leave(call, mode, &response, &reference)
            }
            Err(failure) => {
                progress.finish(&failure.sources);
                Err(failure.error.into())
            }
        }
    }

    /// How progress is to be shown.
    fn mode(&self) -> Result<Mode, BuildError> {
        match (self.quiet, self.progress) {
            (false, mode) => Ok(mode),
            (true, Mode::Auto | Mode::Quiet) => Ok(Mode::Quiet),
            (true, _) => Err(BuildError::usage(
                "--quiet and --progress say different things: leave one out",
            )),
        }
    }

    /// Writes what the user wants to have of a build that succeeded.
    fn leave(
        &self,
        call: &Call,
        mode: Mode,
        response: &Response,
        reference: &str,
    ) -> Result<(), Error> {
        let id = outcome::image_id(response);
        if let Some(file) = &self.iidfile {
            outcome::write(file, id)?;
        }
        if let Some(file) = &self.metadata_file {
            let metadata = outcome::metadata(response, reference);
            let text = serde_json::to_string_pretty(&metadata).unwrap_or_default();
            outcome::write(file, &text)?;
        }
        if mode == Mode::Quiet && !id.is_empty() {
            call.print(&format!("{id}\n"))?;
        }
        Ok(())
    }

    fn print_answer(
        &self,
        call: &Call,
        answer: &HashMap<String, Vec<u8>>,
        question: &Question,
    ) -> Result<(), Error> {
        let field = |name: &str| answer.get(name).map(|text| String::from_utf8_lossy(text));
        let name = match question.form {
            request::Form::Json => "result.json",
            request::Form::Text => "result.txt",
        };
        let Some(text) = field(name) else {
            let why = format!("the frontend knows no answer to {}", question.request);
            return Err(BuildError::Failed(why).into());
        };
        let mut shown: String = text
            .lines()
            .map(|line| progress::shown(line) + "\n")
            .collect();
        if shown.is_empty() && question.request == "frontend.lint" {
            shown = "Check complete, no warnings found.\n".to_owned();
        }
        if let Some(file) = &self.metadata_file {
            let answer = answer
                .iter()
                .map(|(key, text)| (key.clone(), String::from_utf8_lossy(text).into()))
                .collect::<serde_json::Map<_, _>>();
            let text = serde_json::to_string_pretty(&answer).unwrap_or_default();
            outcome::write(file, &text)?;
        }
        call.print(&shown)?;
        let code = field("result.statuscode").and_then(|code| code.parse::<i32>().ok());
        match code {
            Some(code) if code != 0 && question.verdict == request::Verdict::Counts => {
                Err(BuildError::Found.into())
            }
            _ => Ok(()),
        }
    }
}

/// What a request came to.
enum Done {
    /// A result, and what loaders say of it.
    Built(Response, Vec<String>),
    /// A frontend's answer.
    Answered(HashMap<String, Vec<u8>>, Question),
}

/// A build on its way.
struct Running<'a> {
    flags: &'a BuildFlags,
    call: &'a Call,
    farm: Farm,
    stop: watch::Receiver<bool>,
}

/// Images to be loaded here, each with its exporter's place.
type Loads = Vec<(Loading, usize, Output)>;

impl Running<'_> {
    async fn run(
        &self,
        mut request: Request,
        loads: Loads,
        registries: Arc<Registries>,
        connection: crate::connect::Connection,
        progress: &mut Progress,
    ) -> Result<Done, Failure> {
        if !request.attestations.is_empty() {
            unless_stopped(&self.stop, self.farm.check_attestations()).await?;
        }
        if request.exporters.is_empty() && request.question.is_none() && !self.keeps_nothing() {
            progress.say(
                "no output is asked for, so the result stays in the farm's cache: add --push, --load or --output",
            );
        }
        let mut outputs = outputs(&request)?;
        let mut loading = Vec::new();
        for (one, place, output) in loads {
            outputs.push((place, output));
            loading.push(one);
        }
        let session = self.open(&mut request, outputs, registries);
        let session = unless_stopped(&self.stop, session).await?;
        let id = session.id().clone();
        let stop = self.stop.clone();
        if let Some(question) = request.question.clone() {
            let answer = self
                .farm
                .ask(&request, &question, &id, &connection, progress, stop)
                .await;
            session.close().await;
            return Ok(Done::Answered(answer?, question));
        }
        let response = self
            .farm
            .build(&request, &id, &connection, progress, stop)
            .await;
        session.close().await;
        let response = response?;
        for exporter in &request.exporters {
            if let Destination::Layout(folder) = &exporter.destination {
                layout::enter(folder, &response)?;
            }
        }
        let mut said = Vec::new();
        for one in loading {
            let finished = tokio::task::spawn_blocking(|| one.finish()).await;
            let finished = finished.map_err(|error| BuildError::Local(error.to_string()))?;
            said.push(finished?);
        }
        Ok(Done::Built(response, said))
    }

    /// Shares with the farm what the request needs.
    async fn open(
        &self,
        request: &mut Request,
        outputs: Vec<(usize, Output)>,
        registries: Arc<Registries>,
    ) -> Result<Session, Failure> {
        // It has a connection of its own, so that files that are sent hold up no progress.
        let own = self.call.connect().await;
        let own = own.map_err(|error| BuildError::Gone(error.to_string()))?;
        Ok(Session::open(own.channel(), request, outputs, registries).await?)
    }

    /// Whether the user said that there is to be no output.
    fn keeps_nothing(&self) -> bool {
        self.flags.output.iter().any(|one| one == "type=cacheonly")
    }
}

fn environment() -> HashMap<String, String> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn read(flags: &BuildFlags, registries: &Registries) -> Result<Request, BuildError> {
    let folder = std::env::current_dir().map_err(BuildError::file("find", "."))?;
    let proxies = registries
        .proxies()
        .map_err(|error| BuildError::Local(error.to_string()))?;
    let mut around = Surroundings {
        folder,
        variables: environment(),
        input: Box::new(io::stdin()),
        output: match io::stdout().is_terminal() {
            true => StandardOutput::Terminal,
            false => StandardOutput::Other,
        },
        proxies,
    };
    Request::read(flags, &mut around)
}

/// Starts what loads images here, if the request wants any to be.
fn loaders(request: &mut Request) -> Result<Loads, BuildError> {
    let mut loads = Vec::new();
    let platforms = request.attrs.get("platform");
    let platforms = platforms.map_or(1, |list| list.split(',').count());
    for (place, exporter) in request.exporters.iter_mut().enumerate() {
        if load::is_load(exporter) {
            let loader = load::Loader::find()?;
            loader.fit(exporter, platforms)?;
            let (loading, output) = loader.begin()?;
            loads.push((loading, place, output));
        }
    }
    Ok(loads)
}

/// Where exporters write, but for images that are loaded. Folders above a file are made, as buildx makes them.
fn outputs(request: &Request) -> Result<Vec<(usize, Output)>, BuildError> {
    let mut outputs = Vec::new();
    for (place, exporter) in request.exporters.iter().enumerate() {
        let output = match &exporter.destination {
            Destination::Elsewhere | Destination::Load => continue,
            Destination::Folder(path) => Output::folder(path),
            Destination::Mirror(path) => Output::mirror(path),
            Destination::Layout(path) => Output::layout(path),
            Destination::File(path) => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(BuildError::file("make", parent))?;
                }
                Output::file(path)
            }
            Destination::Output => Output::stream(io::stdout()),
        };
        outputs.push((place, output));
    }
    Ok(outputs)
}

/// What comes before the farm runs anything: whoever wants it no more leaves at once.
async fn unless_stopped<T, E: From<BuildError>>(
    stop: &watch::Receiver<bool>,
    first: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut stop = stop.clone();
    tokio::select! {
        done = first => done,
        Ok(_) = stop.wait_for(|stop| *stop) => Err(BuildError::Interrupted.into()),
    }
}

/// Turns Ctrl-C, and a polite end from elsewhere, into a wish to stop; the second one leaves at once.
fn on_interrupt() -> Result<watch::Receiver<bool>, BuildError> {
    let failed = |error: io::Error| BuildError::Local(format!("cannot watch for Ctrl-C: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (tell, stop) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if tell.send_replace(true) {
                std::process::exit(Exit::Interrupted as i32);
            }
        }
    });
    Ok(stop)
}
