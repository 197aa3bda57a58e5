//! Output and data must not lie in one another, found out before anything is paid for.
//!
//! The output has to be empty to begin with and belongs to a person afterwards; the data directory fills up while the job
//! runs and belongs to the program. Mixed, the first commit would be refused, or a `rm -r` of one would take the other.

use std::path::{Path, PathBuf};

use super::Failure;

/// Refuses directories that are the same or lie in one another, links followed.
pub(super) fn check(out: &Path, data: &Path) -> Result<(), Failure> {
    let (real_out, real_data) = (real(out), real(data));
    let how = if real_out == real_data {
        "are the same"
    } else if real_out.starts_with(&real_data) {
        "lie in one another: the output would be part of the program's data"
    } else if real_data.starts_with(&real_out) {
        "lie in one another: the program's data would be part of the output"
    } else {
        return Ok(());
    };
    let what = format!("the output directory {} and the data directory {} {how}", out.display(), data.display());
    Err(Failure::usage("CS-CLI-007", what, "name directories beside each other with --out and --data"))
}

/// `path` without links as far as it exists; what does not exist yet is taken as it is written.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = path.ancestors().find_map(|there| Some((there, there.canonicalize().ok()?)));
    match found {
        Some((there, real)) => path.strip_prefix(there).map_or_else(|_| real.clone(), |rest| real.join(rest)),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_in_one_another_are_refused_whatever_way_they_are_written() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("data/inner")).unwrap();
        std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
        for (out, data) in [
            ("x", "x"),
            ("data", "data"),
            ("data/out/deep", "data"),
            ("out", "out/.codeswarm"),
            ("link/out", "data"),
            ("data", "link/inner/../more"),
            ("data/./out", "data"),
        ] {
            assert!(check(&at(out), &at(data)).is_err(), "{out} and {data}");
        }
        for (out, data) in [("out", "data"), ("data-out", "data"), ("link-out", "link"), ("a/out", "a/data")] {
            assert!(check(&at(out), &at(data)).is_ok(), "{out} and {data}");
        }
    }
}
