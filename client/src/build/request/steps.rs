//! What the commands of a build get: secrets, SSH agents, entitlements, and how their containers are set up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use super::{SecretPlace, Surroundings, output};
use crate::build::{error::BuildError, flags::BuildFlags, words};

/// The limits that Linux has, by their names.
const LIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The attributes about containers.
pub(super) fn attrs(
    flags: &BuildFlags,
    attrs: &mut BTreeMap<String, String>,
) -> Result<(), BuildError> {
    let mut set = |key: &str, value: String| attrs.insert(key.to_owned(), value);
    if let Some(group) = flags
        .cgroup_parent
        .clone()
        .filter(|group| !group.is_empty())
    {
        set("cgroup-parent", group);
    }
    match flags.network.as_deref() {
        None | Some("" | "default") => {}
        Some(mode @ ("host" | "none")) => {
            set("force-network-mode", mode.to_owned());
        }
        Some(other) => {
            return Err(BuildError::usage(format!(
                "--network {other}: a build's network is default, none or host"
            )));
        }
    }
    let hosts = hosts(&flags.add_host)?;
    if !hosts.is_empty() {
        set("add-hosts", hosts.join(","));
    }
    if let Some(size) = flags.shm_size.as_deref() {
        let bytes = words::bytes(size).ok_or_else(|| {
            BuildError::usage(format!(
                "--shm-size {size} is no size: write a number with k, m or g"
            ))
        })?;
        if bytes > 0 {
            set("shm-size", bytes.to_string());
        }
    }
    let limits: Result<Vec<_>, _> = flags.ulimit.iter().map(|text| limit(text)).collect();
    let limits = limits?;
    if !limits.is_empty() {
        set("ulimit", limits.join(","));
    }
    Ok(())
}

fn hosts(given: &[String]) -> Result<Vec<String>, BuildError> {
    let mut hosts = Vec::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let wrong = |why: &str| BuildError::usage(format!("--add-host {text}: {why}"));
        let (host, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .filter(|(host, address)| !host.is_empty() && !address.is_empty())
            .ok_or_else(|| wrong("write host:address"))?;
        if address == "host-gateway" {
            return Err(wrong(
                "the hosts of a farm have different addresses: write the one that is meant",
            ));
        }
        let address = address
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(address);
        address
            .parse::<IpAddr>()
            .map_err(|_| wrong("after the host goes an IP address"))?;
        hosts.push(format!("{host}={address}"));
    }
    Ok(hosts)
}

fn limit(text: &str) -> Result<String, BuildError> {
    let wrong = |why: &str| BuildError::usage(format!("--ulimit {text}: {why}"));
    let (name, values) = text
        .split_once('=')
        .ok_or_else(|| wrong("write name=soft or name=soft:hard"))?;
    if !LIMITS.contains(&name) {
        return Err(wrong(&format!("there is no limit {name:?}")));
    }
    let number = |value: &str| {
        let number = value.parse::<i64>().ok().filter(|&number| number >= -1);
        number.ok_or_else(|| wrong("limits are numbers, and -1 is none"))
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(values)?, number(values)?),
    };
    // -1 is no limit, which is more than any.
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(wrong("the soft limit is above the hard one"));
    }
    Ok(format!("{name}={soft}:{hard}"))
}

pub(super) fn entitlements(flags: &BuildFlags) -> Result<Vec<String>, BuildError> {
    let mut all = BTreeSet::new();
    let asked = flags.allow.iter().filter(|name| !name.is_empty());
    // That one is between the user and this command.
    for name in asked.filter(|name| *name != output::DELETE) {
        let device = name == "device" || name.starts_with("device=");
        if !device && !matches!(name.as_str(), "network.host" | "security.insecure") {
            return Err(BuildError::usage(format!(
                "--allow {name}: there is no such entitlement; there are network.host, security.insecure and device"
            )));
        }
        all.insert(name.clone());
    }
    if flags.network.as_deref() == Some("host") {
        all.insert("network.host".to_owned());
    }
    Ok(all.into_iter().collect())
}

pub(super) fn secrets(
    flags: &BuildFlags,
    around: &Surroundings,
) -> Result<BTreeMap<String, SecretPlace>, BuildError> {
    let mut secrets = BTreeMap::new();
    for text in flags.secret.iter().filter(|text| !text.is_empty()) {
        // A value may be there by mistake, so it is not said again.
        let wrong = |why: &str| BuildError::usage(format!("a --secret can't be read: {why}"));
        let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
        let fields = words::fields(text).ok_or_else(|| wrong("a quote is in the wrong place"))?;
        for field in fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| wrong("write id=name,src=file or id=name,env=VARIABLE"))?;
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            match key.to_ascii_lowercase().as_str() {
                "id" => id = value,
                "src" | "source" => file = value,
                "env" => variable = value,
                "type" => kind = value,
                other => {
                    return Err(wrong(&format!(
                        "there is no option {other:?}; there are id, src, env and type"
                    )));
                }
            }
        }
        match kind.as_deref() {
            Some("env") if variable.is_none() => variable = file.take(),
            None | Some("env" | "file") => {}
            Some(other) => return Err(wrong(&format!("type {other:?} is neither file nor env"))),
        }
        let id = id.ok_or_else(|| wrong("it has no id: add id=name"))?;
        let place = match (variable, file) {
            (Some(variable), _) => SecretPlace::Variable(variable),
            (None, Some(file)) => SecretPlace::File(around.path(file)),
            (None, None) if around.variables.contains_key(&id) => SecretPlace::Variable(id.clone()),
            (None, None) => SecretPlace::File(around.path(&id)),
        };
        secrets.insert(id, place);
    }
    Ok(secrets)
}

pub(super) fn ssh(
    flags: &BuildFlags,
    around: &Surroundings,
) -> Result<BTreeMap<String, Option<PathBuf>>, BuildError> {
    let mut agents = BTreeMap::new();
    for text in flags.ssh.iter().filter(|text| !text.is_empty()) {
        let (id, socket) = match text.split_once('=') {
            Some((id, path)) => (id, Some(around.path(path))),
            None => (text.as_str(), None),
        };
        if text.contains(',') {
            return Err(BuildError::usage(format!(
                "--ssh {text}: keys are lent through an agent: add them to one with ssh-add, and give its socket or just {id}"
            )));
        }
        let id = if id.is_empty() { "default" } else { id };
        agents.insert(id.to_owned(), socket);
    }
    Ok(agents)
}
