//! `cowl container inspect`: everything about a container, in the shape of Docker's API.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::{Map, Value, json};

use crate::cli::{Context, Failure, inspect, networks, ps};
use crate::container::config::{MountKind, Sharing};
use crate::container::record::Bytes;
use crate::container::{Container, Error, Status, life};
use crate::image::moment;
use crate::log;

/// What Docker's clock says when it does not know.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Show everything about containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show this template of each container instead of JSON
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Show how much each container has written
    #[arg(short, long)]
    size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let containers = context.containers()?;
    inspect::show(args.format.as_deref(), &args.containers, |name| {
        object(context, &containers.find(name)?, args.size)
    })
}

/// The container of this name or id, for `cowl inspect`.
pub fn find(context: &Context, name: &str, size: bool) -> Result<Option<Value>, Failure> {
    match context.containers()?.find(name) {
        Ok(container) => Ok(Some(object(context, &container, size)?)),
        Err(Error::Unknown(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn text(bytes: &Bytes) -> String {
    OsString::from(bytes).display().to_string()
}

fn texts<'a>(list: impl IntoIterator<Item = &'a Bytes>) -> Vec<String> {
    list.into_iter().map(text).collect()
}

/// Null where there is nothing, as in Docker.
fn some(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// Milliseconds since 1970 as Docker writes times.
fn time(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let rest = u32::try_from(milliseconds % 1000).unwrap_or(0) * 1_000_000;
    moment::format(seconds, rest)
}

fn object(context: &Context, container: &Container, size: bool) -> Result<Value, Failure> {
    let config = &container.config;
    let command = texts(config.process.command());
    let file = |name: &str| container.dir.join(name).display().to_string();
    let log = match config.life.log {
        life::Log::None => String::new(),
        life::Log::JsonFile { .. } => {
            log::place(&container.dir, config.id.as_str()).display().to_string()
        }
    };
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("Id", json!(config.id.as_str()));
    put("Created", json!(time(config.created)));
    put("Path", json!(command.first().map_or("", String::as_str)));
    put("Args", json!(command.get(1..).unwrap_or_default()));
    put("State", state(container));
    put("Image", json!(config.image_id.as_deref().unwrap_or_default()));
    put("ResolvConfPath", json!(file("resolv.conf")));
    put("HostnamePath", json!(file("hostname")));
    put("HostsPath", json!(file("hosts")));
    put("LogPath", json!(log));
    put("Name", json!(format!("/{}", config.name)));
    put("RestartCount", json!(container.state.restarts));
    put("Driver", json!("cowlfs"));
    put("Platform", json!("linux"));
    put("MountLabel", json!(""));
    put("ProcessLabel", json!(""));
    put("AppArmorProfile", json!(config.isolation.apparmor.as_deref().unwrap_or_default()));
    put("ExecIDs", Value::Null);
    put("HostConfig", host_config(container));
    put(
        "GraphDriver",
        json!({
            "Data": {
                "LowerDir": texts(&config.layers).join(":"),
                "MergedDir": file("rootfs"),
                "UpperDir": file("upper"),
                "WorkDir": file("work"),
            },
            "Name": "cowlfs",
        }),
    );
    if size {
        let (own, all) = ps::sizes(context, container)?;
        put("SizeRw", json!(own));
        put("SizeRootFs", json!(all));
    }
    put("Mounts", mounts(container));
    put("Config", configuration(container));
    put("NetworkSettings", crate::cli::network_settings(context, container)?);
    Ok(Value::Object(object))
}

fn state(container: &Container) -> Value {
    let state = &container.state;
    let pid = state.status.live().map_or(0, |live| live.init.pid);
    let exit_code = match state.status {
        Status::Created { exit_code } => exit_code.unwrap_or(0),
        Status::Exited { exit_code, .. } | Status::Restarting { exit_code, .. } => exit_code,
        Status::Running(_) | Status::Paused(_) => 0,
    };
    let at = |moment: Option<u64>| moment.map_or_else(|| NO_TIME.to_owned(), time);
    json!({
        "Status": state.status.word(),
        "Running": state.status.live().is_some() || matches!(state.status, Status::Restarting { .. }),
        "Paused": matches!(state.status, Status::Paused(_)),
        "Restarting": matches!(state.status, Status::Restarting { .. }),
        "OOMKilled": state.out_of_memory,
        "Dead": false,
        "Pid": pid,
        "ExitCode": exit_code,
        "Error": state.error.as_deref().unwrap_or_default(),
        "StartedAt": at(state.started),
        "FinishedAt": at(state.finished),
    })
}

/// Docker's word for whose namespace it is.
fn sharing(sharing: &Sharing, private: &str) -> String {
    match sharing {
        Sharing::Private => private.to_owned(),
        Sharing::Shareable => "shareable".to_owned(),
        Sharing::Host => "host".to_owned(),
        Sharing::Container(id) => format!("container:{id}"),
        Sharing::None => "none".to_owned(),
    }
}

fn host_config(container: &Container) -> Value {
    let config = &container.config;
    let (isolation, limits) = (&config.isolation, &config.limits);
    let mut binds = Vec::new();
    let mut tmpfs = BTreeMap::new();
    for mount in &config.mounts {
        let target = text(&mount.target);
        let mode = if mount.read_only { ":ro" } else { "" };
        match &mount.kind {
            MountKind::Bind { source } => binds.push(format!("{}:{target}{mode}", text(source))),
            MountKind::Volume { name, anonymous: false, .. } => {
                binds.push(format!("{name}:{target}{mode}"));
            }
            MountKind::Volume { .. } => {}
            MountKind::Tmpfs { options } => drop(tmpfs.insert(target, options.join(","))),
        }
    }
    let devices: Vec<Value> = isolation
        .devices
        .iter()
        .map(|device| {
            json!({
                "PathOnHost": text(&device.source),
                "PathInContainer": text(&device.target),
                "CgroupPermissions": device.permissions,
            })
        })
        .collect();
    let ulimits: Vec<Value> = limits
        .ulimits
        .iter()
        .map(|(name, limit)| {
            let number = |value: u64| i64::try_from(value).unwrap_or(-1);
            json!({ "Name": name, "Hard": number(limit.hard), "Soft": number(limit.soft) })
        })
        .collect();
    let (driver, options) = match config.life.log {
        life::Log::None => ("none", json!({})),
        life::Log::JsonFile { max_size, max_files } => {
            let mut options = Map::new();
            if let Some(files) = max_files {
                options.insert("max-file".to_owned(), json!(files.to_string()));
            }
            if let Some(size) = max_size {
                options.insert("max-size".to_owned(), json!(size.to_string()));
            }
            ("json-file", Value::Object(options))
        }
    };
    let restart = config.life.restart;
    let first = json!({
        "Binds": some(&binds),
        "ContainerIDFile": "",
        "LogConfig": { "Type": driver, "Config": options },
        "NetworkMode": networks(container).first().map_or("default", String::as_str),
        "PortBindings": crate::cli::port_bindings(container),
        "RestartPolicy": { "Name": restart.name(), "MaximumRetryCount": restart.max() },
        "AutoRemove": config.remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [0, 0],
        "CapAdd": some(&isolation.cap_add),
        "CapDrop": some(&isolation.cap_drop),
        "CgroupnsMode": sharing(&isolation.cgroup, "private"),
        "GroupAdd": some(&config.process.groups),
        "IpcMode": sharing(&isolation.ipc, "private"),
        "Cgroup": "",
        "OomScoreAdj": limits.oom_score_adj.unwrap_or(0),
        "PidMode": sharing(&isolation.pid, ""),
        "Privileged": isolation.privileged,
    });
    let second = json!({
        "ReadonlyRootfs": isolation.read_only,
        "Tmpfs": tmpfs,
        "UTSMode": sharing(&isolation.uts, ""),
        "UsernsMode": sharing(&isolation.user, ""),
        "ShmSize": limits.shm_size.unwrap_or(64 << 20),
        "Sysctls": isolation.sysctls,
        "Runtime": "cowl",
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "Memory": limits.memory.unwrap_or(0),
        "NanoCpus": limits.nano_cpus.unwrap_or(0),
        "CgroupParent": limits.cgroup_parent.as_deref().unwrap_or_default(),
        "BlkioWeight": limits.blkio_weight.unwrap_or(0),
        "CpuPeriod": limits.cpu_period.unwrap_or(0),
        "CpuQuota": limits.cpu_quota.unwrap_or(0),
        "CpusetCpus": limits.cpuset_cpus.as_deref().unwrap_or_default(),
        "CpusetMems": limits.cpuset_mems.as_deref().unwrap_or_default(),
        "Devices": devices,
        "MemoryReservation": limits.memory_reservation.unwrap_or(0),
        "MemorySwap": limits.memory_swap.unwrap_or(0),
        "OomKillDisable": limits.oom_kill_disable,
        "Init": config.process.init,
        "PidsLimit": limits.pids,
        "Ulimits": ulimits,
    });
    let mut all = Map::new();
    for part in [first, second] {
        if let Value::Object(fields) = part {
            all.extend(fields);
        }
    }
    Value::Object(all)
}

fn mounts(container: &Container) -> Value {
    let all = container.config.mounts.iter().map(|mount| {
        let (kind, name, source) = match &mount.kind {
            MountKind::Bind { source } => ("bind", None, text(source)),
            MountKind::Volume { name, .. } => ("volume", Some(name), String::new()),
            MountKind::Tmpfs { .. } => ("tmpfs", None, String::new()),
        };
        let mut object = Map::new();
        object.insert("Type".to_owned(), json!(kind));
        if let Some(name) = name {
            object.insert("Name".to_owned(), json!(name));
        }
        object.insert("Source".to_owned(), json!(source));
        object.insert("Destination".to_owned(), json!(text(&mount.target)));
        if name.is_some() {
            object.insert("Driver".to_owned(), json!("local"));
        }
        object.insert("Mode".to_owned(), json!(mount.mode));
        object.insert("RW".to_owned(), json!(!mount.read_only));
        let propagation = if kind == "bind" { mount.propagation.as_str() } else { "" };
        object.insert("Propagation".to_owned(), json!(propagation));
        Value::Object(object)
    });
    Value::Array(all.collect())
}

fn configuration(container: &Container) -> Value {
    let config = &container.config;
    let process = &config.process;
    let [stdin, stdout, stderr] = config.life.attached;
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("Hostname", json!(config.hostname));
    put("Domainname", json!(config.domainname));
    put("User", json!(process.user));
    put("AttachStdin", json!(stdin));
    put("AttachStdout", json!(stdout));
    put("AttachStderr", json!(stderr));
    put("Tty", json!(process.tty));
    put("OpenStdin", json!(process.stdin));
    put("StdinOnce", json!(config.life.stdin_once));
    put("Env", json!(texts(&process.environment)));
    put("Cmd", some(&texts(&process.arguments)));
    put("Image", json!(config.image));
    put("Volumes", Value::Null);
    put("WorkingDir", json!(text(&process.working_dir)));
    put("Entrypoint", some(&texts(&process.entrypoint)));
    put("OnBuild", Value::Null);
    put("Labels", json!(config.labels));
    if let Some(number) = config.life.stop_signal {
        put("StopSignal", json!(life::signal_name(number)));
    }
    if let Some(seconds) = config.life.stop_timeout {
        put("StopTimeout", json!(seconds));
    }
    Value::Object(object)
}
