// Rows: the result of a statement. Values arrive in PostgreSQL's binary format and are checked against the column's
// type: reading a column as something else is an INTERNAL error, never a guess.
//
//   NOVA_CO_TRY(Rows rows, co_await pool_.Query(call, kSelectAccounts, limit));
//   for (const Row row : rows) {
//     Account account;
//     NOVA_CO_TRY(row.Read(account.id, account.email, account.created_at, account.banned_at));
//   }
//
//   C++                               PostgreSQL
//   std::string, std::string_view     text, varchar, char, name, json, jsonb (cast others in the SQL: status::text)
//   bool                              boolean
//   std::int32_t                      smallint, integer
//   std::int64_t                      smallint, integer, bigint
//   double                            real, double precision
//   Uuid                              uuid
//   WallTime                          timestamptz, exact to the microsecond
//   std::vector<std::uint8_t>         bytea
//   std::optional of these            the same, or NULL; without it NULL is an error
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/uuid.h"

struct pg_result;  // libpq's PGresult

namespace nova::postgres {

// A view of one row; valid while its Rows lives. A std::string_view taken from it as well.
class Row {
 public:
  // The value of a column, counted from 0. Errors: INTERNAL (no such row or column, another type, NULL, out of T's
  // range).
  template <class T>
  Result<T> Get(int column) const {
    T value{};
    NOVA_TRY(ReadAt(column, value));
    return value;
  }

  // Reads the columns from 0 on into `values`, in order. After an error some of them are written.
  template <class... Ts>
  Result<void> Read(Ts&... values) const {
    Result<void> result;
    int column = 0;
    // The fold stops at the first error.
    (void)((result = ReadAt(column++, values), result.ok()) && ...);
    return result;
  }

 private:
  friend class Rows;
  Row(const pg_result* result, int row) : result_(result), row_(row) {}

  // The bytes of one value.
  struct Cell {
    std::uint32_t type = 0;  // PostgreSQL's OID
    bool null = false;
    std::string_view bytes;
  };
  Result<Cell> CellAt(int column) const;
  // As above, and not NULL.
  Result<Cell> ValueAt(int column) const;

  Result<void> ReadAt(int column, std::string_view& value) const;
  Result<void> ReadAt(int column, std::string& value) const;
  Result<void> ReadAt(int column, bool& value) const;
  Result<void> ReadAt(int column, std::int32_t& value) const;
  Result<void> ReadAt(int column, std::int64_t& value) const;
  Result<void> ReadAt(int column, double& value) const;
  Result<void> ReadAt(int column, Uuid& value) const;
  Result<void> ReadAt(int column, WallTime& value) const;
  Result<void> ReadAt(int column, std::vector<std::uint8_t>& value) const;
  template <class T>
  Result<void> ReadAt(int column, std::optional<T>& value) const {
    value.reset();
    NOVA_TRY(const Cell cell, CellAt(column));
    if (cell.null) return Ok();
    return ReadAt(column, value.emplace());
  }

  const pg_result* result_;
  int row_;
};

// Move-only. An empty Rows (of a statement that returns nothing) has no rows and no columns.
class Rows {
 public:
  Rows() = default;
  // Takes ownership; for Connection and for tests that fabricate a result.
  explicit Rows(pg_result* result) : result_(result) {}

  int size() const;
  bool empty() const { return size() == 0; }
  // Rows that INSERT, UPDATE, DELETE or MERGE touched; for SELECT the rows it returned.
  std::int64_t affected() const;
  // An index out of range gives a row whose every Get is an error.
  Row operator[](int row) const { return Row(result_.get(), row); }

  class Iterator {
   public:
    using value_type = Row;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    Iterator() = default;
    Row operator*() const { return (*rows_)[row_]; }
    Iterator& operator++() {
      ++row_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator before = *this;
      ++row_;
      return before;
    }
    friend bool operator==(const Iterator&, const Iterator&) = default;

   private:
    friend class Rows;
    Iterator(const Rows* rows, int row) : rows_(rows), row_(row) {}
    const Rows* rows_ = nullptr;
    int row_ = 0;
  };
  Iterator begin() const { return {this, 0}; }
  Iterator end() const { return {this, size()}; }

 private:
  friend class AdminConsole;

  struct Clear {
    void operator()(pg_result* result) const;
  };
  std::unique_ptr<pg_result, Clear> result_;
};

}  // namespace nova::postgres
