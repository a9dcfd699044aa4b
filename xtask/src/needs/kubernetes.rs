//! Kubernetes' programs, built from Debian's source package into the user's cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use grid_testbed::kubernetes::{PROGRAMS, VERSION};

use crate::sh;

/// What the build needs, by the programs that are looked for, and the packages of Debian's that have them.
const NEEDS: &[(&str, &str)] = &[
    ("go", "golang-go"),
    ("dpkg-source", "dpkg-dev"),
    ("rsync", "rsync"),
    ("make", "make"),
    ("cc", "gcc"),
    ("/usr/include/stdlib.h", "libc6-dev"),
];

/// A step of the build: what is said of it, and what `sh` does in the directory of the build. Each is done once; what is
/// built is known by a sum over all of this.
const STEPS: &[(&str, &str)] = &[
    ("fetching Debian's source package", FETCH),
    ("writing its generated files", GENERATE),
    ("compiling five programs", COMPILE),
    ("compiling what holds a pod together", PAUSE),
];

/// The machine's own Debian sources, as source packages, with lists of their own: those of the machine stay as they are.
///
/// Three words are changed. The folders of volumes lie where the cluster is, so that they go with it; and they are open to every
/// user, for volumes of the host's folders are given to no group (`fsGroup`), and nodes are not root. And this kubelet looks
/// only every ten seconds whether a pod that was deleted has ended, which later ones are told at once: here it looks every
/// second, or the suite would be waiting for little else.
const FETCH: &str = r#"
mkdir -p apt/lists/partial apt/cache/archives/partial
if [ -f /etc/apt/sources.list.d/debian.sources ]; then
    own=apt/own.sources
    sed 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >$own
else
    own=apt/own.list
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >$own
fi
of_source() {
    apt-get --quiet -o Dir::Etc::sourcelist="$PWD/$own" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" -o APT::Sandbox::User=root "$@"
}
of_source update
rm -rf kubernetes_* tree
of_source source --download-only kubernetes
dpkg-source --extract kubernetes_*1.20.2-*.dsc tree
provisioner=tree/pkg/volume/hostpath/host_path.go
sed -i -e 's|basePath: "hostpath_pv"|basePath: "sutra-grid-kubernetes/volumes"|' \
    -e 's|Path, 0750)|Path, 0777)|' $provisioner
grep -q 'sutra-grid-kubernetes/volumes' $provisioner
grep -q 'Path, 0777)' $provisioner
manager=tree/pkg/kubelet/status/status_manager.go
sed -i -e 's|^const syncPeriod = 10 |const syncPeriod = 1 |' $manager
grep -q '^const syncPeriod = 1 ' $manager
mkdir -p tree/.go/src/k8s.io
ln -sfn ../../.. tree/.go/src/k8s.io/kubernetes
"#;

const GENERATE: &str = r#"
cd tree
nice make generated_files
"#;

const COMPILE: &str = r#"
export GO111MODULE=off
flags="-s -w"
for of in component-base/version client-go/pkg/version; do
    set -- gitVersion=v1.20.2 gitMajor=1 gitMinor=20 gitTreeState=archive
    for value; do
        flags="$flags -X k8s.io/kubernetes/vendor/k8s.io/$of.$value"
    done
done
rm -rf out
mkdir out
out=$PWD/out
cd "$GOPATH/src/k8s.io/kubernetes"
set -- kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy
nice go build -trimpath -ldflags "$flags" -o "$out/" $(printf 'k8s.io/kubernetes/cmd/%s ' "$@")
"#;

const PAUSE: &str = r#"
cc -Os -static -s -DVERSION=3.4 -o out/pause tree/build/pause/linux/pause.c
cd out
rm -f sums
sha256sum -- * >sums
"#;

/// The directory of the programs, as they were built; the reason why there is none, as part of a sentence.
pub(crate) fn ensure() -> Result<PathBuf, String> {
    let dir = place()?;
    if is_whole(&dir) {
        return Ok(dir);
    }
    can_build()?;
    super::ensure_packages(NEEDS)?;
    let parent = dir.parent().unwrap_or(&dir);
    fs::create_dir_all(parent).map_err(|error| broken(parent, &error))?;
    let lock = beside(&dir, "lock");
    let lock = File::create(&lock).map_err(|error| broken(&lock, &error))?;
    // Two that build wait for each other; the lock goes with the process that has it.
    lock.lock().map_err(|error| broken(&dir, &error))?;
    if is_whole(&dir) {
        return Ok(dir);
    }
    build(&dir)?;
    Ok(dir)
}

/// Where they are, when they have been built.
fn place() -> Result<PathBuf, String> {
    let recipe: Vec<&str> = STEPS.iter().map(|(_, script)| *script).collect();
    let sum = grid_testbed::kubernetes::short_sum(recipe.concat().as_bytes());
    Ok(sh::cache_dir()?.join(format!("kubernetes-v{VERSION}-{sum}")))
}

/// Whether each program is there with every byte that was built: a cache never decides a result.
fn is_whole(dir: &Path) -> bool {
    let listed = fs::read_to_string(dir.join("sums")).unwrap_or_default();
    let has_all = PROGRAMS.iter().all(|it| {
        listed
            .lines()
            .any(|line| line.ends_with(&format!("  {it}")))
    });
    let check = || {
        let mut command = Command::new("sha256sum");
        command
            .args(["--check", "--strict", "--status", "sums"])
            .current_dir(dir)
            .stderr(Stdio::null());
        command.status().is_ok_and(|it| it.success())
    };
    has_all && check()
}

fn can_build() -> Result<(), String> {
    super::can_install()?;
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if system.lines().any(|it| it == "VERSION_CODENAME=bookworm") {
        return Ok(());
    }
    Err("the servers are built from Debian 12's source package, and this is not Debian 12".into())
}

/// Builds in a directory beside, where a run that was killed is gone on with, and puts what was built in its place at once.
fn build(dir: &Path) -> Result<(), String> {
    let work = beside(dir, "build");
    fs::create_dir_all(&work).map_err(|error| broken(&work, &error))?;
    eprintln!("building Kubernetes {VERSION} in {} ...", work.display());
    for (number, (what, script)) in STEPS.iter().enumerate() {
        let done = work.join(format!("done.{number}"));
        if done.exists() {
            continue;
        }
        eprintln!("building Kubernetes: {what} ...");
        if let Err(why) = step(&work, script) {
            let log = work.join("log");
            let kept = beside(dir, "log");
            let _ = fs::rename(&log, &kept);
            // What a step left that failed is not trusted.
            let _ = fs::remove_dir_all(&work);
            return Err(format!("{what} failed: {why} (`{}`)", kept.display()));
        }
        File::create(&done).map_err(|error| broken(&done, &error))?;
    }
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|error| broken(dir, &error))?;
    }
    fs::rename(work.join("out"), dir).map_err(|error| broken(dir, &error))?;
    let _ = fs::remove_dir_all(&work);
    if is_whole(dir) {
        return Ok(());
    }
    Err(format!("`{}` is not whole", dir.display()))
}

/// Does a step, and says each minute that it is at it; the reason why it failed.
fn step(work: &Path, script: &str) -> Result<(), String> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(work.join("log"))
        .map_err(|error| broken(work, &error))?;
    let again = log.try_clone().map_err(|error| broken(work, &error))?;
    let mut command = Command::new("sh");
    command
        .args(["-eu", "-c", script])
        .current_dir(work)
        .env("GOCACHE", work.join("gocache"))
        .env("GOPATH", work.join("tree/.go"))
        .env("GOFLAGS", "")
        .env("GO111MODULE", "")
        .env("CGO_ENABLED", "0")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(again);
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot run `sh`: {error}"))?;
    let begun = Instant::now();
    let (tell, told) = channel();
    let waiter = std::thread::spawn(move || {
        let ended = child.wait();
        let _ = tell.send(());
        ended
    });
    while let Err(RecvTimeoutError::Timeout) = told.recv_timeout(Duration::from_secs(60)) {
        eprintln!(
            "building Kubernetes: {} min so far",
            begun.elapsed().as_secs() / 60
        );
    }
    match waiter.join() {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("it ended with {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it cannot be waited for".into()),
    }
}

/// The same path with something behind it; the version has dots of its own.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push(format!(".{what}"));
    path.into()
}

fn broken(path: &Path, error: &std::io::Error) -> String {
    format!("cannot use `{}`: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_whole(dir.path()));
        for program in PROGRAMS {
            fs::write(dir.path().join(program), program).unwrap();
        }
        let sums = Command::new("sha256sum")
            .args(PROGRAMS)
            .current_dir(dir.path())
            .output()
            .unwrap();
        fs::write(dir.path().join("sums"), &sums.stdout).unwrap();
        assert!(is_whole(dir.path()));
        fs::write(dir.path().join(PROGRAMS[0]), "other").unwrap();
        assert!(!is_whole(dir.path()));
        // A list that lacks one is no proof of it.
        fs::write(dir.path().join(PROGRAMS[0]), PROGRAMS[0]).unwrap();
        let all = String::from_utf8(sums.stdout).unwrap();
        let short: Vec<&str> = all.lines().skip(1).collect();
        fs::write(dir.path().join("sums"), short.join("\n") + "\n").unwrap();
        assert!(!is_whole(dir.path()));
    }
}
