// SPDX-License-Identifier: GPL-2.0
//! The module: loaded or not, from where, and whether the next boot finds it.

use super::files::Files;
use super::finding::Finding;
use super::kernel;

/// Where the files of kernels' modules are.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// Looks at the loaded module and at those that are installed.
pub fn check(files: &Files) -> Vec<Finding> {
    let mut findings = vec![check_loaded(files)];
    findings.extend(check_newest(files));
    findings.push(check_boot(files));
    findings
}

/// Whether the kernel loads only modules with a signature that it trusts.
fn wants_signature(files: &Files) -> bool {
    let enforced = files.line("sys/module/module/parameters/sig_enforce");
    let lockdown = files
        .line("sys/kernel/security/lockdown")
        .unwrap_or_default();
    enforced.as_deref() == Some("Y")
        || ["[integrity]", "[confidentiality]"]
            .iter()
            .any(|level| lockdown.contains(level))
}

fn check_loaded(files: &Files) -> Finding {
    let check = "module-loaded";
    if files.has("sys/module/vhost_rnet") {
        let known: Vec<String> = ["version", "srcversion"]
            .iter()
            .filter_map(|name| {
                let value = files.line(&format!("sys/module/vhost_rnet/{name}"))?;
                Some(format!("{name} {value}"))
            })
            .chain(installed(files).map(|file| format!("installed as {file}")))
            .collect();
        // Unsigned modules carry this letter in their taint.
        let taint = files
            .line("sys/module/vhost_rnet/taint")
            .unwrap_or_default();
        let signed = if taint.contains('E') {
            "without a signature that the kernel trusts"
        } else {
            "signed"
        };
        let mut sentence = format!("The module is loaded, {signed}");
        for detail in &known {
            sentence.push_str(", ");
            sentence.push_str(detail);
        }
        sentence.push('.');
        return Finding::ok(check, sentence);
    }
    let Some(file) = installed(files) else {
        let release = kernel::release(files).unwrap_or_default();
        return Finding::problem(
            check,
            format!("The module is not loaded, nor installed for the kernel {release}."),
        )
        .mended_by("apt install ./vhost-rnet-tools_*.deb ./vhost-rnet-dkms_*.deb");
    };
    if wants_signature(files) {
        return Finding::problem(
            check,
            format!(
                "The module {file} is not loaded, and the kernel loads only modules with a signature \
                 that it trusts."
            ),
        )
        .mended_by("mokutil --import /var/lib/dkms/mok.pub");
    }
    Finding::problem(check, format!("The module {file} is not loaded."))
        .mended_by("modprobe vhost_rnet")
}

/// The file of the module for the running kernel, below its folder, as depmod has listed it.
fn installed(files: &Files) -> Option<String> {
    file_for(files, &kernel::release(files)?)
}

fn file_for(files: &Files, release: &str) -> Option<String> {
    MODULES.iter().find_map(|modules| {
        let listed = files.read(&format!("{modules}/{release}/modules.dep"))?;
        listed.lines().find_map(|line| {
            let (file, _) = line.split_once(':')?;
            let name = file.rsplit('/').next()?;
            name.starts_with("vhost_rnet.ko").then(|| file.to_owned())
        })
    })
}

/// Numbers of a release, to be compared in order.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// The newest kernel that has modules installed: the one that the next boot takes.
fn newest(files: &Files) -> Option<String> {
    MODULES
        .iter()
        .flat_map(|modules| {
            let releases = files.names(modules).unwrap_or_default();
            releases
                .into_iter()
                .filter(move |release| files.has(&format!("{modules}/{release}/modules.dep")))
        })
        .max_by_key(|release| numbers(release))
}

fn check_newest(files: &Files) -> Option<Finding> {
    let check = "module-newest-kernel";
    let newest = newest(files)?;
    if let Some(file) = file_for(files, &newest) {
        return Some(Finding::ok(
            check,
            format!("The newest installed kernel, {newest}, has the module as {file}."),
        ));
    }
    let known = kernel::version(&newest).is_some_and(kernel::is_known);
    let sentence =
        format!("The newest installed kernel, {newest}, has no module for the next boot.");
    Some(if known {
        Finding::advice(check, sentence).mended_by(format!("dkms autoinstall -k {newest}"))
    } else {
        Finding::advice(check, format!("{sentence} It is for 7.2 and 7.3."))
    })
}

/// Folders from which systemd takes the names of modules to load at boot.
const AT_BOOT: [&str; 3] = [
    "etc/modules-load.d",
    "run/modules-load.d",
    "usr/lib/modules-load.d",
];

fn check_boot(files: &Files) -> Finding {
    let check = "module-at-boot";
    let listed = |text: Option<String>| {
        text.unwrap_or_default().lines().any(|line| {
            let name = line.trim().replace('-', "_");
            name == "vhost_rnet"
        })
    };
    let found = AT_BOOT.iter().any(|dir| {
        let names = files.names(dir).unwrap_or_default();
        names
            .iter()
            .filter(|name| name.ends_with(".conf"))
            .any(|name| listed(files.read(&format!("{dir}/{name}"))))
    });
    if found || listed(files.read("etc/modules")) {
        return Finding::ok(check, "The module is loaded at boot.");
    }
    Finding::advice(
        check,
        "Nothing loads the module at boot, and the device exists only while it is loaded.",
    )
    .mended_by("echo vhost_rnet > /etc/modules-load.d/vhost-rnet.conf")
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::Fixture;
    use super::super::finding::Verdict;
    use super::{check_boot, check_loaded, check_newest, numbers};

    fn kernel() -> Fixture {
        Fixture::new()
            .file("proc/sys/kernel/osrelease", "7.3.4-amd64\n")
            .file(
                "usr/lib/modules/7.3.4-amd64/modules.dep",
                "kernel/drivers/net/tun.ko.xz:\nodd\nupdates/dkms/vhost_rnet.ko.xz: a b\n",
            )
    }

    #[test]
    fn a_loaded_module_is_described() {
        let fixture = kernel()
            .file("sys/module/vhost_rnet/srcversion", "ABCD\n")
            .file("sys/module/vhost_rnet/taint", "OE\n");
        let finding = check_loaded(&fixture.files());
        assert_eq!(finding.verdict, Verdict::Ok);
        assert_eq!(
            finding.sentence,
            "The module is loaded, without a signature that the kernel trusts, srcversion ABCD, \
             installed as updates/dkms/vhost_rnet.ko.xz."
        );
        let signed = Fixture::new().file("sys/module/vhost_rnet/taint", "O\n");
        let finding = check_loaded(&signed.files());
        assert_eq!(finding.sentence, "The module is loaded, signed.");
    }

    #[test]
    fn a_module_that_is_not_loaded_is_mended_by_what_is_missing() {
        let command = |fixture: Fixture| {
            let finding = check_loaded(&fixture.files());
            assert_eq!(finding.verdict, Verdict::Problem);
            finding.command.expect("a command")
        };
        assert_eq!(command(kernel()), "modprobe vhost_rnet");
        let enforced = kernel().file("sys/module/module/parameters/sig_enforce", "Y\n");
        assert!(command(enforced).starts_with("mokutil"));
        let locked = kernel().file(
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        );
        assert!(command(locked).starts_with("mokutil"));
        let open = kernel().file(
            "sys/kernel/security/lockdown",
            "[none] integrity confidentiality\n",
        );
        assert_eq!(command(open), "modprobe vhost_rnet");
        assert!(command(Fixture::new()).starts_with("apt install"));
    }

    #[test]
    fn the_newest_kernel_is_the_one_of_the_highest_numbers() {
        assert!(numbers("7.10.1") > numbers("7.9.9-amd64"));
        let ok = check_newest(&kernel().files()).expect("a kernel");
        assert_eq!(ok.verdict, Verdict::Ok);
        let newer = kernel().file("usr/lib/modules/7.3.10-amd64/modules.dep", "");
        let finding = check_newest(&newer.files()).expect("a kernel");
        assert_eq!(finding.verdict, Verdict::Advice);
        assert_eq!(
            finding.command.as_deref(),
            Some("dkms autoinstall -k 7.3.10-amd64")
        );
        let foreign = kernel().file("usr/lib/modules/8.1.0/modules.dep", "");
        let finding = check_newest(&foreign.files()).expect("a kernel");
        assert_eq!((finding.verdict, finding.command), (Verdict::Advice, None));
        // What a removed kernel leaves is no kernel.
        let left = kernel().file("usr/lib/modules/9.0/updates/x", "");
        assert_eq!(
            check_newest(&left.files()).expect("a kernel").verdict,
            Verdict::Ok
        );
        assert_eq!(check_newest(&Fixture::new().files()), None);
    }

    #[test]
    fn loading_at_boot_is_looked_for_in_all_places() {
        assert_eq!(check_boot(&Fixture::new().files()).verdict, Verdict::Advice);
        let comment = Fixture::new().file("etc/modules-load.d/x.conf", "# vhost_rnet\n");
        assert_eq!(check_boot(&comment.files()).verdict, Verdict::Advice);
        for place in ["usr/lib/modules-load.d/vhost-rnet.conf", "etc/modules"] {
            let fixture = Fixture::new().file(place, "# why\nvhost-rnet\n");
            assert_eq!(check_boot(&fixture.files()).verdict, Verdict::Ok, "{place}");
        }
    }
}
