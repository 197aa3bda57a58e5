//! What all processes that run on have in common: log lines, health, stopping, the last word.
//!
//! With JSON logs everything such a process says is one JSON line, so that a collector never meets prose; without, people read
//! sentences. It only wires and waits; the work is the worker's and the coordinator's.

use std::net::SocketAddr;

use super::args::{Common, HealthcheckArgs};
use super::interrupts::Interrupts;
use super::screen::Screen;
use super::{Exit, Failure, opened};
use crate::backend::Backend;
use crate::config::Loaded;
use crate::error::Coded;
use crate::fleet::Stop;
use crate::protocol::InstanceId;
use crate::telemetry::{self, Healthcheck, Speaker, Telemetry};

/// A process that runs on.
pub(super) struct Service {
    pub(super) instance: InstanceId,
    screen: Screen,
    json: bool,
    telemetry: Telemetry,
}

impl Service {
    /// Starts logs and health. Until [`Service::open`], the process is alive and not ready.
    pub(super) fn begin(screen: &Screen, loaded: &Loaded, role: &str) -> Result<Self, Failure> {
        let settings = &loaded.settings;
        let instance = InstanceId::fresh(role);
        let speaker = Speaker::Service { instance: instance.to_string(), role: role.to_owned() };
        opened::start_logs_of(loaded, speaker)?;
        let telemetry = Telemetry::start(settings.http.listen.parse::<SocketAddr>().ok())?;
        let service = Self { instance, screen: screen.clone(), json: settings.log.json, telemetry };
        if let Some(address) = service.telemetry.address() {
            service.say(&format!("health and metrics on http://{address}"));
        }
        Ok(service)
    }

    /// Opens the stores; from now on the process is ready while they answer.
    pub(super) async fn open(&mut self, common: &Common, loaded: &Loaded) -> Result<Backend, Failure> {
        let backend = opened::open_for(common, loaded, &self.instance).await?;
        self.telemetry.probe(&backend);
        Ok(backend)
    }

    /// True when somebody can ask for figures.
    pub(super) const fn is_watched(&self) -> bool {
        self.telemetry.address().is_some()
    }

    /// Tells people or collectors something.
    pub(super) fn say(&self, text: &str) {
        say(&self.screen, self.json, text);
    }

    /// Told by SIGTERM or Ctrl-C, which also ends readiness; the second one is impatient.
    pub(super) fn stop_on_signal(&self) -> Result<Stop, Failure> {
        let mut interrupts = Interrupts::listen()?;
        let stop = Stop::default();
        let (told, health, screen, json) = (stop.clone(), self.telemetry.health(), self.screen.clone(), self.json);
        tokio::spawn(async move {
            interrupts.next().await;
            health.drain();
            told.gently.cancel();
            say(&screen, json, "stopping: running tasks are being finished, nothing new is taken");
            interrupts.next().await;
            told.at_once.cancel();
            say(&screen, json, "cutting running calls off; they stay paid");
        });
        Ok(stop)
    }

    /// The last word: drained in good order, or what kept the process from going on.
    pub(super) fn end(self, outcome: Result<(), Failure>) -> Result<Exit, Failure> {
        match outcome {
            Ok(()) => {
                tracing::info!("drained");
                Ok(Exit::Done)
            }
            Err(failure) => {
                self.telemetry.health().fail("a part of this process has ended; see its log");
                if self.json {
                    tracing::error!("{}", failure.report());
                    return Ok(failure.exit);
                }
                Err(failure)
            }
        }
    }
}

fn say(screen: &Screen, json: bool, text: &str) {
    if json {
        tracing::info!("{text}");
    } else {
        screen.note(text);
    }
}

/// `healthcheck`: asks the process that has these settings, or the one that is named.
pub(super) async fn healthcheck(screen: &Screen, common: &Common, args: &HealthcheckArgs) -> Result<Exit, Failure> {
    let url = match &args.url {
        Some(url) => url.clone(),
        None => {
            let loaded = opened::settings(common, Vec::new())?;
            let listen = loaded.settings.http.listen.parse::<SocketAddr>().map_err(|_| {
                let what = "http.listen is empty: there is nothing to ask";
                Failure::usage(
                    "CS-CLI-024",
                    what,
                    "set http.listen as the process has it, or name the address with --url",
                )
            })?;
            telemetry::default_url(listen)
        }
    };
    match Healthcheck::of(&url)?.ask().await {
        Ok(answer) => {
            screen.result(&format!("{url}: {answer}"));
            Ok(Exit::Done)
        }
        Err(unhealthy) => {
            // One line: container runtimes keep it as the reason.
            screen.error(&format!("error[{}]: {unhealthy}", unhealthy.code()));
            Ok(Exit::Error)
        }
    }
}
