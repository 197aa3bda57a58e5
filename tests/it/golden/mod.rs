//! Golden files: the bytes of every message and event of every schema version, pinned.
//!
//! Each sample must be written as exactly the bytes of its file and read back from them, so that logs and messages of
//! older processes stay readable. A file of a released version must never be changed: a changed shape needs a new
//! version and a new directory. Files without a sample, and samples without a file, fail the test as well.

mod samples;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use codeswarm::clock::Timestamp;
use codeswarm::protocol::validate::decode_envelope;
use codeswarm::protocol::{Envelope, TaskMessage, validate};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/v1")
}

/// Compares samples with their files and remembers which files have been looked at.
#[derive(Default)]
struct Goldens {
    seen: BTreeSet<String>,
    faults: Vec<String>,
}

impl Goldens {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let file = format!("{name}.json");
        let written = serde_json::to_string(value).unwrap();
        match std::fs::read_to_string(directory().join(&file)) {
            Err(error) => self.faults.push(format!("{file}: {error}; it should hold\n{written}")),
            Ok(pinned) => {
                let pinned = pinned.trim_end_matches('\n');
                if written != pinned {
                    self.faults.push(format!("{file}: bytes changed\n  pinned  {pinned}\n  written {written}"));
                }
                match serde_json::from_str::<T>(pinned) {
                    Ok(read) if read == *value => {}
                    Ok(read) => self.faults.push(format!("{file}: was read as {read:?}")),
                    Err(error) => self.faults.push(format!("{file}: cannot be read any more: {error}")),
                }
            }
        }
        assert!(self.seen.insert(file), "two samples are named {name}");
    }
}

#[test]
fn every_message_and_event_keeps_its_bytes() {
    let mut goldens = Goldens::default();
    for (name, envelope) in samples::envelopes() {
        goldens.check(&name, &envelope);
    }
    for (name, result) in samples::results() {
        goldens.check(&name, &result);
    }
    for (name, command) in samples::commands() {
        goldens.check(&name, &command);
    }
    for (name, event) in samples::events() {
        goldens.check(&name, &event);
    }
    goldens.check("strategic-plan", &samples::strategic_plan());
    goldens.check("feature-plan", &samples::feature_plan());
    assert!(goldens.faults.is_empty(), "{}", goldens.faults.join("\n"));
    let files: BTreeSet<String> =
        std::fs::read_dir(directory()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, goldens.seen, "every golden file needs a sample");
}

#[test]
fn every_sample_is_within_the_bounds_of_the_edge() {
    for (name, envelope) in samples::envelopes() {
        let bytes = serde_json::to_vec(&envelope).unwrap();
        let read: Envelope<TaskMessage> = decode_envelope(&bytes, Timestamp(0)).unwrap();
        assert_eq!(validate::task_message(&read.payload), Ok(()), "{name}");
    }
    for (name, result) in samples::results() {
        assert_eq!(validate::task_result(&result), Ok(()), "{name}");
    }
    for (name, command) in samples::commands() {
        assert_eq!(validate::command(&command), Ok(()), "{name}");
    }
    let whole = samples::strategic_plan();
    assert_eq!(validate::strategic_plan(&whole, (1, 15)), Ok(()));
    assert_eq!(validate::feature_plan(&samples::feature_plan(), &whole.features[1], &whole, (1, 8)), Ok(()));
}
