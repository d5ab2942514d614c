//! The meshes that a certificate is valid for.

/// The scheme of the URIs that name meshes.
const SCHEME: &str = "palm:";

/// The meshes named in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// None: it is valid for its host, in any mesh.
    Any,
    /// It is valid for this mesh.
    This,
    /// It is valid for these meshes only, and this one is not among them.
    Others(Vec<String>),
}

/// Returns the URI that certificates contain for the mesh of this prefix: `palm:/staging`, or
/// `palm:/` without a prefix.
#[must_use]
pub fn mesh_uri(prefix: &str) -> String {
    let path = prefix.trim_end_matches('/');
    format!("{SCHEME}{}", if path.is_empty() { "/" } else { path })
}

/// Returns what the URIs of a certificate mean for the mesh of this prefix.
#[must_use]
pub fn scope<'a>(uris: impl Iterator<Item = &'a str>, prefix: &str) -> Scope {
    // Schemes are case-insensitive; a scope that is overlooked would not limit anything.
    let of_meshes = uris.filter(|uri| {
        uri.get(..SCHEME.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(SCHEME))
    });
    let meshes: Vec<String> = of_meshes
        .map(|uri| mesh_uri(&uri[SCHEME.len()..]))
        .collect();
    if meshes.is_empty() {
        Scope::Any
    } else if meshes.contains(&mesh_uri(prefix)) {
        Scope::This
    } else {
        Scope::Others(meshes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_for_the_meshes_it_names_or_all() {
        let others = |uris: &[&str]| Scope::Others(uris.iter().map(ToString::to_string).collect());
        for (uris, prefix, wanted) in [
            (&[][..], "/a", Scope::Any),
            (
                &["https://a/", "spiffe://a/b", "palmier:/b"],
                "/a",
                Scope::Any,
            ),
            (&["palm:/a"], "/a", Scope::This),
            (&["palm:/a/"], "/a", Scope::This),
            (&["PALM:/a"], "/a/", Scope::This),
            (&["palm:/"], "", Scope::This),
            (&["palm:"], "", Scope::This),
            (&["palm:/b", "palm:/a"], "/a", Scope::This),
            (&["palm:/a"], "", others(&["palm:/a"])),
            (&["palm:/"], "/a", others(&["palm:/"])),
            (
                &["palm:/a/b", "palm:/A"],
                "/a",
                others(&["palm:/a/b", "palm:/A"]),
            ),
        ] {
            assert_eq!(
                scope(uris.iter().copied(), prefix),
                wanted,
                "{uris:?} for {prefix:?}"
            );
        }
    }
}
