//! Replicas and sources that a program serves (FUSE), each with habits of its own. By root, where
//! the program is there.

use std::fs;

use crate::support::script::script;
use crate::support::{Run, Scratch, Tree, set_mtime};

/// Runs a script with a FUSE file system mounted at `mnt`, as `mount` says, which ends when the
/// script does. `tools`: what has to be there.
#[track_caller]
fn served(scratch: &Scratch, tools: &str, mount: &str, text: &str) -> Option<Run> {
    served_by(scratch, tools, mount, &format!("mkdir -p mnt/replica\n{text}"))
}

/// The same where nothing can be made in the mounted file system.
#[track_caller]
fn served_by(scratch: &Scratch, tools: &str, mount: &str, text: &str) -> Option<Run> {
    let script_text = format!(
        r#"
        for tool in /dev/fuse {tools}; do
            [ -e $tool ] || command -v $tool >tools.log || {{ echo "lacking: $tool" >&2; exit; }}
        done
        mkdir -p mnt back
        {mount}
        tries=0
        until mountpoint -q mnt; do
            tries=$((tries + 1))
            [ $tries -lt 100 ] || {{ cat mount.log >&2; exit 97; }}
            sleep 0.1
        done
        trap 'umount -l mnt' EXIT
        # Runs it once, and says how it ended.
        run() {{
            code=0
            "$TWINDIR" "$@" >>out 2>>err || code=$?
            echo "$1: $code"
        }}
        {text}
        cat out
        cat err >&2
        "#
    );
    script(scratch, "", &script_text)
}

/// The lines of a run that begin with how it ended.
fn ends(run: &Run) -> Vec<&str> {
    run.stdout.lines().filter(|line| line.starts_with("--")).collect()
}

const SSHFS: &str = r#"
        printf '#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n' >ssh
        chmod +x ssh
        sshfs -o ssh_command="$PWD/ssh" host:"$PWD/back" mnt >mount.log 2>&1"#;

const SSHFS_TOOLS: &str = "sshfs /usr/lib/openssh/sftp-server";

/// sshfs sets owner and times of what a symlink leads to.
#[test]
fn nothing_outside_the_replica_changes_where_symlinks_are_followed_below_us() {
    let tree =
        Tree::new().symlink("contained", "dir/file").file("dir/file", "text").symlink("up", "../x");
    let scratch = Scratch::new().with_source(&tree);
    let outside = scratch.path("outside");
    fs::write(&outside, "mine").unwrap();
    set_mtime(&outside, 1_000_000_000, 0);
    std::os::unix::fs::symlink(&outside, scratch.source().join("absolute")).unwrap();
    for (name, mtime) in [("absolute", 1_100_000_000), ("contained", 1_200_000_000)] {
        let link = scratch.source().join(name);
        std::os::unix::fs::lchown(&link, Some(1234), Some(1234)).ok();
        set_mtime(&link, mtime, 0);
    }
    // What sshfs does not let anybody read is removed and replaced all the same. Old versions of it
    // let them be read.
    let text = "ln -s /etc/hosts back/replica/unread; ln -s ../../x back/replica/dir
        readlink mnt/replica/unread || true
        run --once source mnt/replica; run --once source mnt/replica; stat -c '%u %Y' outside mnt/replica/dir/file";
    let Some(run) = served(&scratch, SSHFS_TOOLS, SSHFS, text) else { return };
    assert_eq!(ends(&run), ["--once: 0", "--once: 0"], "{run}");
    let stats: Vec<&str> = run.stdout.lines().filter(|line| line.ends_with("00000000")).collect();
    assert_eq!(stats.first(), Some(&"0 1000000000"), "{run}");
    assert_eq!(run.stdout.matches("nothing to do").count(), 1, "{run}");
    let lacks = "symlinks that are absolute or have `..` in them, owners and times of symlinks";
    let is_old = run.stdout.lines().any(|line| line == "/etc/hosts");
    assert_eq!(run.stderr.matches(lacks).count(), if is_old { 0 } else { 2 }, "{run}");
    let back = scratch.path("back/replica");
    assert_eq!(fs::read_link(back.join("contained")).unwrap().to_str(), Some("dir/file"));
    assert!(fs::symlink_metadata(back.join("unread")).is_err());
    assert_eq!(fs::read_link(back.join("absolute")).ok(), is_old.then_some(outside));
}

#[test]
fn a_replica_in_which_symlinks_are_followed_is_refused_and_nothing_there_is_changed() {
    let mount = SSHFS.replace("sshfs -o", "sshfs -o follow_symlinks -o");
    let tree =
        Tree::new().file("d/file", "text").symlink("to a dir", "d").symlink("nowhere", "nothing");
    let scratch = Scratch::new().with_source(&tree);
    fs::create_dir_all(scratch.path("outside/sub")).unwrap();
    let text = "ln -s ../../outside back/replica/extra; mkdir back/replica/old
        run --once source mnt/replica; run source mnt/replica; run --once source mnt/new";
    let Some(run) = served(&scratch, SSHFS_TOOLS, &mount, text) else { return };
    assert_eq!(run.stdout.matches(": 2").count(), 3, "{run}");
    assert_eq!(run.stderr.matches("symlinks are followed in the replica").count(), 3, "{run}");
    assert!(scratch.path("outside/sub").exists());
    assert_eq!(fs::read_dir(scratch.path("back/replica")).unwrap().count(), 2, "{run}");
    assert!(!scratch.path("back/new").exists());
}

/// SFTP counts seconds in 32 bits, and sshfs takes 0 for now.
#[test]
fn times_that_sftp_cannot_say_are_stored_as_the_nearest_and_compared_so() {
    let scratch = Scratch::new()
        .with_source(&Tree::new().file("before", "x").file("after", "x").file("usual", "x"));
    for (name, mtime) in
        [("before", -2_000_000_000), ("after", 5_000_000_000), ("usual", 1_500_000_000)]
    {
        set_mtime(&scratch.source().join(name), mtime, 0);
    }
    let text = "run --once source mnt/replica; run --once source mnt/replica
        cd back/replica; stat -c '%n %Y' after before usual; cd ../..";
    let Some(run) = served(&scratch, SSHFS_TOOLS, SSHFS, text) else { return };
    assert_eq!(ends(&run), ["--once: 0", "--once: 0"], "{run}");
    assert_eq!(run.stdout.matches("nothing to do").count(), 1, "{run}");
    for line in ["after 4294967295", "before 1", "usual 1500000000"] {
        assert!(run.stdout.lines().any(|said| said == line), "no {line}\n{run}");
    }
    assert_eq!(run.stdout.matches(" note ").count(), 1, "it is said once\n{run}");
}

const RCLONE: &str = r#"
        XDG_CONFIG_HOME="$PWD" rclone mount --vfs-cache-mode writes --vfs-write-back 0 --cache-dir "$PWD/cache" \
            --daemon :local:"$PWD/back" mnt >mount.log 2>&1"#;

/// rclone's mount answers calls for attributes, and symlinks, with EIO.
#[test]
fn calls_that_a_file_system_refuses_with_any_error_are_not_made_of_it() {
    let tree = Tree::new().file("a", "text").file("dir/b", "more").symlink("link", "a");
    let scratch = Scratch::new().with_source(&tree);
    // rclone uploads in the background: what was renamed meanwhile may still be listed by its old
    // name, and cannot be removed by it.
    let text =
        "run --once source mnt/replica
        names() { find back/replica mnt/replica -type f | sort | tr '\\n' ' '; }
        for _ in $(seq 300); do
            [ \"$(names)\" = 'back/replica/a back/replica/dir/b mnt/replica/a mnt/replica/dir/b ' ] && break
            sleep 0.1
        done
        run --once source mnt/replica; run --once mnt/replica copy
        list() { (cd $1; find . -type f | sort | xargs cat); }
        [ \"$(list source)\" = \"$(list copy)\" ] && echo same";
    let Some(run) = served(&scratch, "rclone", RCLONE, text) else { return };
    assert_eq!(ends(&run), ["--once: 0", "--once: 0", "--once: 0"], "{run}");
    assert!(run.stdout.lines().any(|line| line == "same"), "{run}");
    assert!(!run.stderr.contains("problem"), "{run}");
    for word in ["symlinks", "user attributes", "ACLs"] {
        assert!(
            run.stderr.lines().any(|line| line.contains("does not keep") && line.contains(word)),
            "{word}\n{run}"
        );
    }
}

const SIZES: &str = "/usr/bin/python3 sizes.py mnt >mount.log 2>&1 &";

const SIZES_TOOLS: &str = "/usr/bin/python3 /usr/lib/python3/dist-packages/fusepy.py";

/// As procfs and sysfs, and some programs behind FUSE, do it.
#[test]
fn files_that_do_not_end_where_their_sizes_say_are_mirrored_to_their_ends() {
    let scratch = Scratch::new();
    fs::write(scratch.path("sizes.py"), include_str!("fuse/sizes.py")).unwrap();
    let names = "honest big-short big-long big-empty none long short";
    // Files of the claimed sizes, which hold something else.
    let text = format!(
        "run --once mnt r --exclude endless; run --once mnt r --exclude endless; run --once --quick mnt r --exclude endless
        run --dry-run mnt r --exclude endless; run --check mnt r --exclude endless
        for name in {names}; do cmp mnt/$name r/$name; done
        : >r/none; truncate -s 100 r/short; truncate -s 2000000 r/big-long
        printf '0123456789abcdeX' >r/long
        run --check mnt r --exclude endless; run --once mnt r --exclude endless
        for name in {names}; do cmp mnt/$name r/$name; done
        run --once mnt r"
    );
    let Some(run) = served_by(&scratch, SIZES_TOOLS, SIZES, &text) else { return };
    let expected = [
        "--once: 0",
        "--once: 0",
        "--once: 0",
        "--dry-run: 0",
        "--check: 0",
        "--check: 1",
        "--once: 0",
        "--once: 1",
    ];
    assert_eq!(ends(&run), expected, "{run}");
    assert_eq!(run.stdout.matches("nothing to do").count(), 2, "{run}");
    assert_eq!(run.stdout.matches(" (size, ").count(), 4, "{run}");
    assert_eq!(
        run.stdout.matches("do not end where its size says").count(),
        5,
        "once in a run\n{run}"
    );
    let problems: Vec<_> = run.stderr.lines().filter(|line| line.contains("problem")).collect();
    assert_eq!(problems.len(), 1, "{run}");
    assert!(
        problems[0].contains("endless: cannot find the end of the file in the source"),
        "{run}"
    );
}

/// Even to ask the disk which directory the replica is would take for ever.
#[test]
fn a_status_is_told_while_the_replicas_disk_does_not_answer() {
    let scratch = Scratch::new().with_source(&Tree::new().file("f", "x"));
    let text = r#"
        "$TWINDIR" source mnt/replica 1h >out 2>err &
        pid=$!
        until "$TWINDIR" --status mnt/replica >/dev/null 2>&1; do sleep 0.1; done
        server=$(cat server)
        kill -STOP $server
        echo more >source/new
        code=0
        # Longer than an answer takes, and much shorter than a disk that hangs.
        timeout 10 "$TWINDIR" --status mnt/replica || code=$?
        echo "--status: $code"
        kill -CONT $server
        until [ -e back/replica/new ]; do sleep 0.1; done
        kill $pid
        wait $pid"#;
    let mount = format!("here=$PWD\n{SSHFS}");
    let mount = mount.replace("'#!/bin/sh\\nexec", "'#!/bin/sh\\necho $$ >%s/server\\nexec");
    let mount = mount.replace("sftp-server\\n' >ssh", "sftp-server\\n' \"$here\" >ssh");
    let Some(run) = served(&scratch, SSHFS_TOOLS, &mount, text) else { return };
    let [end] = ends(&run)[..] else { panic!("{run}") };
    assert!(["--status: 0", "--status: 1"].contains(&end), "{run}");
    assert!(run.stdout.contains("/mnt/replica"), "{run}");
}
