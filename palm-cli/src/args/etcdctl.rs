//! etcdctl's environment variables, which are used where no variable of PALM is set.

use palm_peer::{Config, InvalidSetting};

/// A setting from one of etcdctl's variables.
#[derive(Debug, PartialEq, Eq)]
struct Fallback {
    setting: &'static str,
    variable: &'static str,
    value: String,
}

/// Sets what neither an option nor a `PALM_*` variable sets. The files for TLS belong together:
/// they are taken only if none of them is set. Returns a warning, if there is one.
pub(super) fn apply(
    config: &mut Config,
    is_set: impl Fn(&str) -> bool,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, InvalidSetting> {
    let (fallbacks, warning) = fallbacks(is_set, lookup);
    for fallback in fallbacks {
        config
            .set(fallback.setting, &fallback.value)
            .map_err(|error| error.named(fallback.variable))?;
    }
    Ok(warning)
}

fn fallbacks(
    is_set: impl Fn(&str) -> bool,
    lookup: impl Fn(&str) -> Option<String>,
) -> (Vec<Fallback>, Option<String>) {
    let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let mut found = Vec::new();
    let mut take = |setting, variable| {
        let value = lookup(variable);
        found.extend(value.map(|value| Fallback {
            setting,
            variable,
            value,
        }));
    };
    if !is_set("etcd") {
        take("etcd", "ETCDCTL_ENDPOINTS");
    }
    if !["cacert", "cert", "key"].into_iter().any(&is_set) {
        take("cacert", "ETCDCTL_CACERT");
        take("cert", "ETCDCTL_CERT");
        take("key", "ETCDCTL_KEY");
    }
    let user = lookup("ETCDCTL_USER").filter(|_| !is_set("user"));
    let Some(user) = user else {
        return (found, None);
    };
    let value = match lookup("ETCDCTL_PASSWORD") {
        _ if user.contains(':') => user,
        Some(password) => format!("{user}:{password}"),
        // etcdctl would ask for it.
        None => {
            let warning = "ETCDCTL_USER has no password and is ignored: set it to name:password, or set \
                           ETCDCTL_PASSWORD or PALM_USER";
            return (found, Some(warning.to_owned()));
        }
    };
    found.push(Fallback {
        setting: "user",
        variable: "ETCDCTL_USER",
        value,
    });
    (found, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(set: &[&str], variables: &[(&str, &str)]) -> (Vec<(&'static str, String)>, bool) {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (found, warning) = fallbacks(|name| set.contains(&name), lookup);
        let pairs = found.into_iter();
        (
            pairs.map(|found| (found.setting, found.value)).collect(),
            warning.is_some(),
        )
    }

    #[test]
    fn etcdctls_variables_are_taken_for_what_is_not_set() {
        let all = [
            ("ETCDCTL_ENDPOINTS", "a:1,b:2"),
            ("ETCDCTL_CACERT", "/ca.pem"),
            ("ETCDCTL_CERT", "/cert.pem"),
            ("ETCDCTL_KEY", "/key.pem"),
            ("ETCDCTL_USER", "root:secret"),
        ];
        let pairs = |names: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
            let pairs = names.iter();
            pairs
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect()
        };
        let (etcd, files, user) = (
            [("etcd", "a:1,b:2")],
            [
                ("cacert", "/ca.pem"),
                ("cert", "/cert.pem"),
                ("key", "/key.pem"),
            ],
            [("user", "root:secret")],
        );
        let everything = [&etcd[..], &files, &user].concat();
        assert_eq!(found(&[], &all), (pairs(&everything), false));
        assert_eq!(found(&["etcd", "user"], &all), (pairs(&files), false));
        let rest = [&etcd[..], &user].concat();
        assert_eq!(found(&["cacert"], &all), (pairs(&rest), false));
        assert_eq!(found(&[], &[("ETCDCTL_ENDPOINTS", "")]), (vec![], false));
        for (variables, value, warns) in [
            (&[("ETCDCTL_USER", "root")][..], None, true),
            (
                &[("ETCDCTL_USER", "root"), ("ETCDCTL_PASSWORD", "a:b")],
                Some("root:a:b"),
                false,
            ),
        ] {
            let user = value.map(|value| ("user", value.to_owned()));
            assert_eq!(found(&[], variables), (user.into_iter().collect(), warns));
        }
    }
}
