//! Secrets: read from the environment or a file, never printed.
//!
//! A type of its own rather than a careful habit: its `Debug` and `Display` say nothing, it cannot be serialized, and so
//! no log line, error or `config show` can give it away.

use std::fmt;
use std::path::Path;

use super::{ConfigError, Environment};

/// A text that its `Debug` and `Display` forms never show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the provider's key comes from.
pub struct ApiKey;

/// Longest key file read, in bytes; a key is a line of text, anything longer is the wrong file.
const MAX_KEY_BYTES: u64 = 4096;

impl ApiKey {
    /// Reads `ANTHROPIC_API_KEY`, or the file that `ANTHROPIC_API_KEY_FILE` names. `None` when neither is set.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when both are set, the file cannot be read, or the key is empty or not printable ASCII.
    pub fn read(environment: &Environment) -> Result<Option<Secret>, ConfigError> {
        let fault = |why: String| ConfigError::one("ANTHROPIC_API_KEY", why);
        let direct = environment.get("ANTHROPIC_API_KEY").filter(|text| !text.is_empty());
        let file = environment.get("ANTHROPIC_API_KEY_FILE").filter(|text| !text.is_empty());
        let text = match (direct, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(fault("it is set together with ANTHROPIC_API_KEY_FILE; keep one of them".into()));
            }
            (Some(text), None) => text.to_owned(),
            (None, Some(path)) => {
                let path = Path::new(path);
                let readable = std::fs::metadata(path).map(|m| m.is_file() && m.len() <= MAX_KEY_BYTES);
                match readable {
                    Ok(true) => std::fs::read_to_string(path)
                        .map_err(|error| fault(format!("cannot read {}: {error}", path.display())))?,
                    Ok(false) => {
                        return Err(fault(format!(
                            "{} is not a file of at most {MAX_KEY_BYTES} bytes",
                            path.display()
                        )));
                    }
                    Err(error) => return Err(fault(format!("cannot read {}: {error}", path.display()))),
                }
            }
        };
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fault("the key is empty or holds characters that cannot be sent in a header".into()));
        }
        Ok(Some(Secret::new(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("sk-hidden");
        assert!(!format!("{secret:?} {secret}").contains("hidden"));
    }

    #[test]
    fn the_key_comes_from_one_place_only() {
        let both = Environment::from_pairs([("ANTHROPIC_API_KEY", "a"), ("ANTHROPIC_API_KEY_FILE", "/b")]);
        assert!(ApiKey::read(&both).is_err());
        assert_eq!(ApiKey::read(&Environment::default()).ok(), Some(None));
        let broken = Environment::from_pairs([("ANTHROPIC_API_KEY", "a b")]);
        assert!(ApiKey::read(&broken).is_err());
    }

    #[test]
    fn the_key_file_is_trimmed_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "sk-1\n").unwrap();
        let environment = Environment::from_pairs([("ANTHROPIC_API_KEY_FILE", path.to_str().unwrap())]);
        assert_eq!(ApiKey::read(&environment).unwrap().unwrap().expose(), "sk-1");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(ApiKey::read(&environment).is_err());
    }
}
