//! Which meshes a certificate is for.

/// What the URIs that name meshes begin with.
const SCHEME: &str = "palm:";

/// What a certificate says of meshes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: it is for a host, whatever the mesh.
    Any,
    /// It is for this mesh.
    This,
    /// It is for these meshes, and this is none of them.
    Others(Vec<String>),
}

/// The URI that stands in certificates for the mesh of this prefix: `palm:/staging`, or `palm:/` where there is none.
#[must_use]
pub fn mesh_uri(prefix: &str) -> String {
    let path = prefix.trim_end_matches('/');
    format!("{SCHEME}{}", if path.is_empty() { "/" } else { path })
}

/// What the URIs of a certificate say to the mesh of this prefix.
#[must_use]
pub fn scope<'a>(uris: impl Iterator<Item = &'a str>, prefix: &str) -> Scope {
    // Schemes are the same in capitals; one that is overlooked would be no limit.
    let of_meshes = uris.filter(|uri| uri.get(..SCHEME.len()).is_some_and(|head| head.eq_ignore_ascii_case(SCHEME)));
    let meshes: Vec<String> = of_meshes.map(|uri| mesh_uri(&uri[SCHEME.len()..])).collect();
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
            (&["https://a/", "spiffe://a/b", "palmier:/b"], "/a", Scope::Any),
            (&["palm:/a"], "/a", Scope::This),
            (&["palm:/a/"], "/a", Scope::This),
            (&["PALM:/a"], "/a/", Scope::This),
            (&["palm:/"], "", Scope::This),
            (&["palm:"], "", Scope::This),
            (&["palm:/b", "palm:/a"], "/a", Scope::This),
            (&["palm:/a"], "", others(&["palm:/a"])),
            (&["palm:/"], "/a", others(&["palm:/"])),
            (&["palm:/a/b", "palm:/A"], "/a", others(&["palm:/a/b", "palm:/A"])),
        ] {
            assert_eq!(scope(uris.iter().copied(), prefix), wanted, "{uris:?} for {prefix:?}");
        }
    }
}
